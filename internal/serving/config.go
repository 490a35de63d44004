package serving

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/agnivade/levenshtein"
	"github.com/dustin/go-humanize"

	"github.com/shoalserve/shoal/batch"
)

// Config is how a backend is to be run. Zero fields take their defaults.
type Config struct {
	// MaxBatchSize is the most queries in one call. Default 32 for a model
	// that takes batches, else 1.
	MaxBatchSize int `json:"max_batch_size"`
	// BatchWaitTimeout holds a query back so that its batch can fill. Default 0.
	BatchWaitTimeout Duration `json:"batch_wait_timeout"`
	// LatencySLO is the objective for the time from arrival to answer that
	// batches are made for. Default none.
	LatencySLO Duration `json:"latency_slo,omitempty"`
	// LeaveAtOnce switches the departure policy off, which holds a batch back
	// for a moment where it learned that this pays.
	LeaveAtOnce bool `json:"leave_at_once"`
	// NumReplicas is how many instances run, at most 1,000. Default 1.
	NumReplicas int `json:"num_replicas"`
	// MaxQueued and MaxQueuedBytes bound what may wait. Default 4096, 256 MiB.
	MaxQueued      int  `json:"max_queued"`
	MaxQueuedBytes Size `json:"max_queued_bytes"`
	// MaxConcurrentBatches is how many batches one replica computes at once, at
	// most 10,000. Default 1.
	MaxConcurrentBatches int `json:"max_concurrent_batches"`
	// Timeout bounds the time from a query's arrival at a front to its answer.
	// Default 60s.
	Timeout Duration `json:"timeout"`
	// Env is added to the environment of worker processes.
	Env map[string]string `json:"env,omitempty"`
	// ExposeTraceback shows the model's traceback to web callers.
	ExposeTraceback bool `json:"expose_traceback"`
	// BatchTimeout is the longest that a replica may compute one batch; one that
	// takes longer is replaced. Default none.
	BatchTimeout Duration `json:"batch_timeout,omitempty"`
	// HeartbeatTimeout is how long an idle worker process may fail to give a sign
	// of life before it is replaced. Default 30s.
	HeartbeatTimeout Duration `json:"heartbeat_timeout"`
	// MaxReplicas, if it is more than NumReplicas, lets the server run more
	// replicas while queries wait. Default 0: NumReplicas run.
	MaxReplicas int `json:"max_replicas,omitempty"`
	// ScaleUpQueueTime is how long queries may wait before there are more replicas.
	// Default 100ms.
	ScaleUpQueueTime Duration `json:"scale_up_queue_time"`
	// ScaleDownDelay is for how long fewer replicas must have been enough before
	// there are fewer. Default 5m.
	ScaleDownDelay Duration `json:"scale_down_delay"`
	// IdleTimeout is how long there must be no query before all replicas are
	// stopped; the next query starts one and waits for it. Default none: never.
	IdleTimeout Duration `json:"idle_timeout,omitempty"`
	// MemoryLimit, CPUTimeLimit and OpenFilesLimit bound what one worker process
	// may use, on Linux. Default none.
	MemoryLimit    Size     `json:"memory_limit,omitempty"`
	CPUTimeLimit   Duration `json:"cpu_time_limit,omitempty"`
	OpenFilesLimit int      `json:"open_files_limit,omitempty"`
	// WarmUp is what a replica computes before it gets queries. Nil: the
	// examples of the endpoints that the backend serves when it is started.
	WarmUp *WarmUp `json:"warm_up,omitempty"`
	// QueueTimeTarget is how long queries may wait when they have waited longer for a
	// while; more are refused. Default none: as long as their deadlines allow.
	QueueTimeTarget Duration `json:"queue_time_target,omitempty"`
	// ComputeLate has queries admitted and computed whose deadline cannot be met.
	ComputeLate bool `json:"compute_late"`
	// CallerWeights are the shares of callers; "*" is any other. Default 1 each.
	CallerWeights map[string]float64 `json:"caller_weights,omitempty"`
	// IsolateCallers never lets two callers share a batch.
	IsolateCallers bool `json:"isolate_callers"`
	// OnBatchError says what becomes of a batch that fails as a whole. Default
	// Isolate.
	OnBatchError OnBatchError `json:"on_batch_error"`
	// MaxSurge is how many replicas of a new version, or with a new config, may run
	// beside num_replicas while they take over; with 0 an old one ends before a new
	// one starts. Nil: all start first. Only for workers.
	MaxSurge *int `json:"max_surge,omitempty"`
	// VerifyOneIn has about one in so many queries that were answered in a batch with
	// others computed again, alone, when a replica is idle, and the answers compared as
	// VerifyCompare says. Default 0: none.
	VerifyOneIn   int      `json:"verify_one_in,omitempty"`
	VerifyCompare *Compare `json:"verify_compare,omitempty"`
	// RecycleAfter is how many batches a worker answers before a fresh one takes its
	// place. Default none.
	RecycleAfter int `json:"recycle_after,omitempty"`
}

// OnBatchError says what becomes of a batch of which the model raises an error
// for all, or whose worker dies.
type OnBatchError string

const (
	// Isolate has it computed again in parts, until the guilty queries stand alone.
	Isolate OnBatchError = "isolate"
	// FailAll fails all of its queries, for models whose calls have effects that
	// must not be repeated.
	FailAll OnBatchError = "fail"
)

// DecodeConfig reads a config in JSON on top of base: absent keys keep base's
// values. An unknown key is an error that names the nearest right one.
func DecodeConfig(base Config, raw []byte) (Config, error) {
	c := base
	c.Env, c.CallerWeights = maps.Clone(base.Env), maps.Clone(base.CallerWeights)
	if len(bytes.TrimSpace(raw)) == 0 {
		return c, nil
	}
	var keys map[string]json.RawMessage
	if err := json.Unmarshal(raw, &keys); err != nil {
		return c, Errorf(InvalidArgument, "config%s", unfit("", raw, err))
	}
	maps.DeleteFunc(keys, func(_ string, value json.RawMessage) bool { return string(value) == "null" })
	if _, ok := keys["warm_up"]; ok { // replaced whole, not merged into
		c.WarmUp = nil
	}
	if _, ok := keys["caller_weights"]; ok { // replaced whole, as env is
		c.CallerWeights = nil
	}
	if _, ok := keys["max_surge"]; ok { // not written through base's pointer
		c.MaxSurge = nil
	}
	if _, ok := keys["verify_compare"]; ok { // likewise
		c.VerifyCompare = nil
	}
	for key, value := range keys {
		if !slices.Contains(configKeys, key) {
			return c, Errorf(InvalidArgument, "config: unknown key %q; did you mean %q?", key, nearest(key))
		}
		if err := json.Unmarshal(fmt.Appendf(nil, "{%q:%s}", key, value), &c); err != nil {
			return c, Errorf(InvalidArgument, "config: %s%s", key, unfit(key, value, err))
		}
	}
	if env, ok := keys["env"]; ok { // replaced whole, not merged into
		c.Env = nil
		if err := json.Unmarshal(env, &c.Env); err != nil {
			return c, Errorf(InvalidArgument, "config: env%s", unfit("env", env, err))
		}
	}
	return c, c.validate(keys)
}

// unfit says in words why a value was not taken. It shows none that may hold
// secrets, since what it says is logged.
func unfit(key string, value json.RawMessage, err error) string {
	wrong, ok := errors.AsType[*json.UnmarshalTypeError](err)
	if !ok {
		return fmt.Sprintf(": %v", err)
	}
	var want string
	switch wrong.Type.Kind() {
	case reflect.Int:
		want = "a whole number"
	case reflect.Bool:
		want = "true or false"
	case reflect.Map:
		want = "an object"
	case reflect.Float64: // of caller_weights, the only one that holds numbers
		want = "an object whose values are numbers"
	case reflect.String:
		if want = "an object whose values are texts"; wrong.Type == reflect.TypeFor[OnBatchError]() {
			want = `"isolate" or "fail"`
		}
	}
	switch key {
	case "env":
		var values map[string]json.RawMessage
		if json.Unmarshal(value, &values) == nil {
			return " must be " + want + notTexts(values)
		}
		fallthrough
	case "", "warm_up", "verify_compare":
		return fmt.Sprintf(" must be %s, not %s", want, inWords(value))
	}
	return fmt.Sprintf(" must be %s, not %.100s", want, bytes.TrimSpace(value))
}

// notTexts names the first value that is no text.
func notTexts(values map[string]json.RawMessage) string {
	for _, name := range slices.Sorted(maps.Keys(values)) {
		if kind := inWords(values[name]); kind != "a text" && kind != "null" {
			return fmt.Sprintf("; the value of %q is %s", name, kind)
		}
	}
	return ""
}

// inWords says what kind of value a JSON text is.
func inWords(value json.RawMessage) string {
	value = bytes.TrimSpace(value)
	if len(value) == 0 {
		return "nothing"
	}
	switch value[0] {
	case '{':
		return "an object"
	case '[':
		return "a list"
	case '"':
		return "a text"
	case 't', 'f', 'n':
		return string(value) // true, false or null
	}
	return "a number"
}

// The most that a config may ask for; beyond it a slip would fill the machine
// with processes or goroutines.
const (
	maxReplicas          = 1000
	maxConcurrentBatches = 10_000
)

// Validate refuses values that are out of range.
func (c Config) Validate() error { return c.validate(nil) }

// validate refuses values that are out of range, among the keys that were set.
func (c Config) validate(set map[string]json.RawMessage) error {
	for key, value := range map[string]int64{
		"max_batch_size": int64(c.MaxBatchSize), "num_replicas": int64(c.NumReplicas), "max_queued": int64(c.MaxQueued),
		"max_queued_bytes": int64(c.MaxQueuedBytes), "max_concurrent_batches": int64(c.MaxConcurrentBatches),
	} {
		if _, ok := set[key]; (ok && value < 1) || value < 0 {
			return Errorf(InvalidArgument, "config: %s must be at least 1, got %d", key, value)
		}
	}
	_, timeout := set["timeout"]
	switch {
	case c.NumReplicas > maxReplicas:
		return Errorf(InvalidArgument, "config: num_replicas must be at most %d, got %d", maxReplicas, c.NumReplicas)
	case c.MaxConcurrentBatches > maxConcurrentBatches:
		return Errorf(InvalidArgument, "config: max_concurrent_batches must be at most %d, got %d", maxConcurrentBatches, c.MaxConcurrentBatches)
	case c.Timeout < 0, timeout && c.Timeout == 0:
		return Errorf(InvalidArgument, "config: timeout must be more than 0, got %v", time.Duration(c.Timeout))
	case c.BatchWaitTimeout < 0:
		return Errorf(InvalidArgument, "config: batch_wait_timeout must not be negative, got %v", time.Duration(c.BatchWaitTimeout))
	case c.MaxSurge != nil && *c.MaxSurge < 0:
		return Errorf(InvalidArgument, "config: max_surge must not be negative, got %d; leave it out to have all new replicas start first", *c.MaxSurge)
	case c.OnBatchError != "" && c.OnBatchError != Isolate && c.OnBatchError != FailAll:
		return Errorf(InvalidArgument, "config: on_batch_error must be \"isolate\" or \"fail\", got %q", c.OnBatchError)
	}
	for _, check := range []func() error{c.validateSLO, c.validateOverload, c.validateWatch, c.validateScale, c.validateLimits, c.validateEnv, c.WarmUp.check, c.validateVerify} {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

// validateOverload refuses weights that are none and times that would refuse all.
func (c Config) validateOverload() error {
	for caller, weight := range c.CallerWeights {
		if !(weight >= minWeight && weight <= maxWeight) {
			return Errorf(InvalidArgument, "config: caller_weights: the weight of %q must be from %v to %v, got %v", caller, minWeight, maxWeight, weight)
		}
		if err := CheckCaller(caller); err != nil {
			return Errorf(InvalidArgument, "config: caller_weights: %v", err)
		}
	}
	if c.QueueTimeTarget < 0 {
		return Errorf(InvalidArgument, "config: queue_time_target must not be negative, got %v; 0 means none", time.Duration(c.QueueTimeTarget))
	}
	return nil
}

// validateVerify refuses to compute queries twice that must not be.
func (c Config) validateVerify() error {
	switch {
	case c.VerifyOneIn < 0:
		return Errorf(InvalidArgument, "config: verify_one_in must not be negative, got %d; 0 means that no query is verified", c.VerifyOneIn)
	case c.VerifyOneIn > 0 && c.OnBatchError == FailAll:
		return Errorf(InvalidArgument, "config: verify_one_in computes queries a second time, which must not happen with on_batch_error \"fail\"; set one of them")
	}
	if err := c.VerifyCompare.check(); err != nil {
		return Errorf(InvalidArgument, "config: verify_%v", err)
	}
	return nil
}

// The least and the most that a caller may weigh.
const minWeight, maxWeight = 0.001, 1000

// validateEnv refuses what no process can have in its environment.
func (c Config) validateEnv() error {
	for name, value := range c.Env {
		if begin, _, assigned := strings.Cut(name, "="); assigned { // what follows may be a secret
			return Errorf(InvalidArgument, "config: env: the name of an environment variable cannot hold \"=\", as one does that begins with %q", begin)
		}
		if name == "" || strings.ContainsRune(name, 0) {
			return Errorf(InvalidArgument, "config: env: %q cannot be the name of an environment variable", name)
		}
		if strings.ContainsRune(value, 0) {
			return Errorf(InvalidArgument, "config: env: the value of %s holds a zero byte", name)
		}
	}
	return nil
}

// The least that makes sense; below it a watchdog would mostly kill what is well.
const (
	minBatchTimeout     = time.Millisecond
	minHeartbeatTimeout = 100 * time.Millisecond
)

// validateWatch refuses times after which no replica could live.
func (c Config) validateWatch() error {
	batch, heartbeat := time.Duration(c.BatchTimeout), time.Duration(c.HeartbeatTimeout)
	switch {
	case batch != 0 && batch < minBatchTimeout:
		return Errorf(InvalidArgument, "config: batch_timeout must be at least %v, got %v; 0 means none", minBatchTimeout, batch)
	case heartbeat != 0 && heartbeat < minHeartbeatTimeout:
		return Errorf(InvalidArgument, "config: heartbeat_timeout must be at least %v, got %v; one of many hours is as good as none", minHeartbeatTimeout, heartbeat)
	}
	return nil
}

// The least with which a Python process can start.
const (
	minMemoryLimit    = 32 << 20
	minCPUTimeLimit   = time.Second
	minOpenFilesLimit = 16
)

// validateLimits refuses limits with which no worker could start.
func (c Config) validateLimits() error {
	cpu := time.Duration(c.CPUTimeLimit)
	switch {
	case c.MemoryLimit != 0 && c.MemoryLimit < minMemoryLimit:
		return Errorf(InvalidArgument, "config: memory_limit must be at least 32MiB, got %d bytes; 0 means none", c.MemoryLimit)
	case cpu != 0 && cpu < minCPUTimeLimit:
		return Errorf(InvalidArgument, "config: cpu_time_limit must be at least %v, got %v; 0 means none", minCPUTimeLimit, cpu)
	case c.RecycleAfter < 0:
		return Errorf(InvalidArgument, "config: recycle_after must not be negative, got %d; 0 means never", c.RecycleAfter)
	case c.OpenFilesLimit != 0 && c.OpenFilesLimit < minOpenFilesLimit:
		return Errorf(InvalidArgument, "config: open_files_limit must be at least %d, got %d; 0 means none", minOpenFilesLimit, c.OpenFilesLimit)
	}
	return nil
}

// minIdleTimeout is the least time without queries that counts as idle.
const minIdleTimeout = 100 * time.Millisecond

// validateScale refuses bounds that contradict each other.
func (c Config) validateScale() error {
	idle := time.Duration(c.IdleTimeout)
	switch {
	case c.MaxReplicas < 0 || c.MaxReplicas > maxReplicas:
		return Errorf(InvalidArgument, "config: max_replicas must be between num_replicas and %d, got %d", maxReplicas, c.MaxReplicas)
	case c.MaxReplicas > 0 && c.MaxReplicas < c.NumReplicas:
		return Errorf(InvalidArgument, "config: max_replicas (%d) must not be less than num_replicas (%d), which is the least that run", c.MaxReplicas, c.NumReplicas)
	case c.ScaleUpQueueTime < 0:
		return Errorf(InvalidArgument, "config: scale_up_queue_time must be more than 0, got %v", time.Duration(c.ScaleUpQueueTime))
	case c.ScaleDownDelay < 0:
		return Errorf(InvalidArgument, "config: scale_down_delay must be more than 0, got %v", time.Duration(c.ScaleDownDelay))
	case idle != 0 && idle < minIdleTimeout:
		return Errorf(InvalidArgument, "config: idle_timeout must be at least %v, got %v; 0 means never", minIdleTimeout, idle)
	}
	return nil
}

// validateSLO refuses an objective that another key makes impossible.
func (c Config) validateSLO() error {
	slo := time.Duration(c.LatencySLO)
	wait, timeout := time.Duration(c.BatchWaitTimeout), time.Duration(c.Timeout)
	switch {
	case slo < 0:
		return Errorf(InvalidArgument, "config: latency_slo must not be negative, got %v; 0 means none", slo)
	case slo == 0:
	case wait >= slo:
		return Errorf(InvalidArgument, "config: batch_wait_timeout (%v) must be shorter than latency_slo (%v), or queries are late before they are computed", wait, slo)
	case timeout > 0 && timeout < slo:
		return Errorf(InvalidArgument, "config: latency_slo (%v) must not be longer than timeout (%v), after which queries are given up", slo, timeout)
	}
	return nil
}

// withDefaults fills what nobody chose; batched tells what the model takes.
func (c Config) withDefaults(batched bool) Config {
	if c.MaxBatchSize == 0 {
		c.MaxBatchSize = 1
		if batched {
			c.MaxBatchSize = 32
		}
	}
	if c.NumReplicas == 0 {
		c.NumReplicas = 1
	}
	if c.MaxQueued == 0 {
		c.MaxQueued = 4096
	}
	if c.MaxQueuedBytes == 0 {
		c.MaxQueuedBytes = 256 << 20
	}
	if c.MaxConcurrentBatches == 0 {
		c.MaxConcurrentBatches = 1
	}
	if c.Timeout == 0 {
		c.Timeout = Duration(60 * time.Second)
	}
	if c.HeartbeatTimeout == 0 {
		c.HeartbeatTimeout = Duration(30 * time.Second)
	}
	if c.ScaleUpQueueTime == 0 {
		c.ScaleUpQueueTime = Duration(100 * time.Millisecond)
	}
	if c.ScaleDownDelay == 0 {
		c.ScaleDownDelay = Duration(5 * time.Minute)
	}
	if c.OnBatchError == "" {
		c.OnBatchError = Isolate
	}
	return c
}

func (c Config) limits() batch.Limits {
	onError := batch.Isolate
	if c.OnBatchError == FailAll {
		onError = batch.FailAll
	}
	return batch.Limits{
		OnError:      onError,
		MaxBatchSize: c.MaxBatchSize, BatchWaitTimeout: time.Duration(c.BatchWaitTimeout), LeaveAtOnce: c.LeaveAtOnce, LatencySLO: time.Duration(c.LatencySLO),
		MaxQueued: c.MaxQueued, MaxQueuedBytes: int64(c.MaxQueuedBytes),
		QueueTimeTarget: time.Duration(c.QueueTimeTarget), ComputeLate: c.ComputeLate,
		CallerWeights: c.CallerWeights, IsolateCallers: c.IsolateCallers,
	}
}

// needsRestart reports whether a change to next takes new replicas.
func (c Config) needsRestart(next Config) bool {
	return c.MemoryLimit != next.MemoryLimit || c.CPUTimeLimit != next.CPUTimeLimit || c.OpenFilesLimit != next.OpenFilesLimit ||
		c.MaxConcurrentBatches != next.MaxConcurrentBatches || (c.OnBatchError == FailAll) != (next.OnBatchError == FailAll) ||
		!maps.Equal(c.Env, next.Env) || c.coldFor(next)
}

// coldFor reports whether replicas that were warmed up never computed batches as
// large as they would get with next.
func (c Config) coldFor(next Config) bool {
	warm := next.WarmUp
	return warm != nil && len(warm.Requests) > 0 && next.MaxBatchSize > c.MaxBatchSize
}

var configKeys = func() []string {
	var keys []string
	for field := range reflect.TypeFor[Config]().Fields() {
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		keys = append(keys, name)
	}
	return keys
}()

// ConfigKeys lists the keys of a Config.
func ConfigKeys() []string { return slices.Clone(configKeys) }

func nearest(key string) string {
	return slices.MinFunc(configKeys, func(a, b string) int {
		return levenshtein.ComputeDistance(key, a) - levenshtein.ComputeDistance(key, b)
	})
}

// Duration is a time span that is written "2ms"; a bare number counts seconds.
type Duration time.Duration

// MarshalJSON writes the duration as text.
func (d Duration) MarshalJSON() ([]byte, error) { return json.Marshal(time.Duration(d).String()) }

// UnmarshalJSON reads "2ms" or a number of seconds.
func (d *Duration) UnmarshalJSON(raw []byte) error {
	var seconds float64
	if json.Unmarshal(raw, &seconds) == nil {
		ns := seconds * float64(time.Second)
		if math.Abs(ns) >= math.MaxInt64 {
			return fmt.Errorf("%s seconds are more than the %.0f that are possible", raw, time.Duration(math.MaxInt64).Seconds())
		}
		*d = Duration(ns)
		return nil
	}
	var text string
	if err := json.Unmarshal(raw, &text); err != nil {
		return fmt.Errorf("%s is neither a duration such as \"2ms\" nor a number of seconds", raw)
	}
	parsed, err := time.ParseDuration(text)
	if err != nil {
		return fmt.Errorf("%q is not a duration; write it with a unit, such as \"2ms\" or \"1.5s\"", text)
	}
	*d = Duration(parsed)
	return nil
}

// Size is a number of bytes that may be written "256MiB".
type Size int64

// UnmarshalJSON reads a number of bytes or a text such as "256MiB".
func (s *Size) UnmarshalJSON(raw []byte) error {
	var n float64 // which 1e6 is, too; it is exact up to 8 PiB
	if json.Unmarshal(raw, &n) == nil && n == math.Trunc(n) && math.Abs(n) < 1<<62 {
		*s = Size(n)
		return nil
	}
	var text string
	if err := json.Unmarshal(raw, &text); err != nil {
		return fmt.Errorf("%s is neither a number of bytes nor a size such as \"256MiB\"", raw)
	}
	parsed, err := humanize.ParseBytes(text)
	if err != nil || parsed > 1<<62 {
		return fmt.Errorf("%q is not a size; write it as \"256MiB\" or \"1GB\"", text)
	}
	*s = Size(parsed)
	return nil
}
