package serving_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/shoalserve/shoal/batch"
	"github.com/shoalserve/shoal/internal/runtime/gofunc"
	"github.com/shoalserve/shoal/internal/serving"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// model is a backend of a Go function from text to text.
type model struct {
	fn      batch.Func[string, string]
	initErr error
	format  serving.Format // of its answers; 0: text
	log     *slog.Logger
	starts  atomic.Int32
	closes  atomic.Int32
}

func (m *model) build(name string, config serving.Config) serving.Build {
	return func(ctx context.Context) (serving.Backend, error) {
		runtime := gofunc.Runtime[string, string]{Batched: true, New: func(context.Context) (batch.Func[string, string], func() error, error) {
			m.starts.Add(1)
			return m.fn, func() error { m.closes.Add(1); return nil }, m.initErr
		}}
		codec := serving.Codec[string, string]{
			Decode: func(c *serving.Call) (string, error) { return string(c.Args.Payload), nil },
			Encode: func(_ *serving.Call, out string) (serving.Response, error) {
				return serving.Response{Format: cmp.Or(m.format, serving.Text), Body: []byte(out)}, nil
			},
		}
		return serving.NewTypedPool(ctx, name, serving.Model[string, string]{Kind: "go", Runtime: runtime}, codec, config, serving.Deps{Logger: m.log})
	}
}

// says returns a model that answers each query with itself, marked.
func says(mark string) *model {
	return &model{fn: func(_ context.Context, in []string) ([]string, error) {
		out := make([]string, len(in))
		for i := range in {
			out[i] = in[i] + mark
		}
		return out, nil
	}}
}

func newRegistry(t *testing.T) *serving.Registry {
	t.Helper()
	r := serving.NewRegistry()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := r.Close(ctx); err != nil {
			t.Errorf("closing the registry: %v", err)
		}
	})
	return r
}

func deploy(t *testing.T, r *serving.Registry, name string, m *model) {
	t.Helper()
	if _, err := r.Deploy(t.Context(), name, false, m.build(name, serving.Config{})); err != nil {
		t.Fatal(err)
	}
}

func endpoint(t *testing.T, r *serving.Registry, name, backend string) {
	t.Helper()
	if _, err := r.CreateEndpoint(name, serving.EndpointSpec{Backend: backend, Route: "/" + name}); err != nil {
		t.Fatal(err)
	}
}

// ask sends one query through an endpoint and waits for its answer.
func ask(r *serving.Registry, name, in, shardKey string) (string, error) {
	e, err := r.Endpoint(name)
	if err != nil {
		return "", err
	}
	done := make(chan struct{})
	c := &serving.Call{Origin: batch.API, Args: serving.Args{Payload: []byte(in)}, ShardKey: shardKey, Done: func(*serving.Call) { close(done) }}
	if err := e.Submit(c); err != nil {
		return "", err
	}
	<-done
	return string(c.Response.Body), c.Err
}

func wantCode(t *testing.T, err error, code serving.Code) {
	t.Helper()
	if !errors.Is(err, &serving.Error{Code: code}) {
		t.Errorf("got error %v, want %s", err, code)
	}
}

func TestAnEndpointAnswersThroughItsBackend(t *testing.T) {
	r := newRegistry(t)
	deploy(t, r, "m:v1", says("1"))
	endpoint(t, r, "m", "m:v1")
	if got, err := ask(r, "m", "q", ""); got != "q1" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	if e, ok := r.Route("/m"); !ok || e.Name != "m" {
		t.Errorf("route /m leads to %v", e)
	}
}

func TestNamesAreUniqueAndMistakesAreExplained(t *testing.T) {
	r := newRegistry(t)
	deploy(t, r, "adder:v1", says("1"))
	endpoint(t, r, "adder", "adder:v1")

	_, err := r.Deploy(t.Context(), "adder:v1", false, says("2").build("adder:v1", serving.Config{}))
	wantCode(t, err, serving.AlreadyExists)
	if created, err := r.CreateEndpoint("adder", serving.EndpointSpec{Backend: "adder:v1", Route: "/adder"}); created || err != nil {
		t.Errorf("the same endpoint again: created %v, %v", created, err)
	}
	_, err = r.CreateEndpoint("adder", serving.EndpointSpec{Backend: "adder:v1", Route: "/other"})
	wantCode(t, err, serving.AlreadyExists)
	_, err = r.CreateEndpoint("other", serving.EndpointSpec{Backend: "adder:v1", Route: "/adder"})
	wantCode(t, err, serving.AlreadyExists)
	_, err = r.CreateEndpoint("other", serving.EndpointSpec{Backend: "addre:v1"})
	wantCode(t, err, serving.BackendNotFound)
	if err == nil || !strings.Contains(err.Error(), `did you mean "adder:v1"?`) {
		t.Errorf("no suggestion in %v", err)
	}
	wantCode(t, r.Delete(t.Context(), "adder:v1"), serving.InUse)
	if err := r.Delete(t.Context(), "nothing"); err != nil {
		t.Errorf("deleting what does not exist: %v", err)
	}
	_, err = ask(r, "addr", "q", "")
	wantCode(t, err, serving.EndpointNotFound)
	for _, name := range []string{"", ".", "..", "a\nb", "a\xffb", strings.Repeat("x", 257)} {
		_, err := r.Deploy(t.Context(), name, false, says("").build(name, serving.Config{}))
		wantCode(t, err, serving.InvalidArgument)
		_, err = r.CreateEndpoint(name, serving.EndpointSpec{Backend: "adder:v1"})
		wantCode(t, err, serving.InvalidArgument)
	}
	if e, _ := r.Endpoint("adder"); e.Allow != "GET, HEAD" || !e.Takes("HEAD") || e.Takes("POST") {
		t.Errorf("a GET route allows %q", e.Allow)
	}
	for _, spec := range []serving.EndpointSpec{
		{Backend: "adder:v1", Route: "no-slash"}, {Backend: "adder:v1", Route: "/-/x"}, {Backend: "adder:v1", Route: "/a?b"},
		{Backend: "adder:v1", Route: "/x", Methods: []string{"FETCH"}},
		{Backend: "adder:v1", Example: &serving.Example{JSON: []byte("1"), Text: "x"}},
		{Backend: "adder:v1", Example: &serving.Example{JSON: []byte("{")}},
		{Backend: "adder:v1", Example: &serving.Example{Method: "FOO BAR"}},
		{Backend: "adder:v1", Example: &serving.Example{Headers: map[string]string{"A": "b\nC: d"}}},
		{Backend: "adder:v1", Example: &serving.Example{Headers: map[string]string{"A b": "c"}}},
		{Traffic: map[string]float64{"adder:v1": 0.5}},
		{Backend: "adder:v1", Shadows: map[string]float64{"adder:v1": 1.5}},
	} {
		_, err := r.CreateEndpoint("bad", spec)
		wantCode(t, err, serving.InvalidArgument)
	}
}

func TestTrafficIsSplitByWeightAndStickyByShardKey(t *testing.T) {
	r := newRegistry(t)
	deploy(t, r, "v1", says("1"))
	deploy(t, r, "v2", says("2"))
	endpoint(t, r, "m", "v1")
	if err := r.SetTraffic("m", map[string]float64{"v1": 0.7, "v2": 0.3}); err != nil {
		t.Fatal(err)
	}
	counts := map[string]int{}
	for range 2000 {
		got, err := ask(r, "m", "", "")
		if err != nil {
			t.Fatal(err)
		}
		counts[got]++
	}
	// Far outside what chance allows: more than six standard deviations.
	if counts["2"] < 470 || counts["2"] > 730 {
		t.Errorf("of 2000 queries at 0.3, %d went to v2", counts["2"])
	}
	seen := map[string]bool{}
	for key := range 50 {
		first, _ := ask(r, "m", "", strconv.Itoa(key))
		for range 5 {
			if again, _ := ask(r, "m", "", strconv.Itoa(key)); again != first {
				t.Fatalf("shard key %d went to %s and to %s", key, first, again)
			}
		}
		seen[first] = true
	}
	if len(seen) != 2 {
		t.Errorf("50 shard keys all went to one backend")
	}
	for _, weights := range []map[string]float64{{}, {"v1": 0.5}, {"v1": -1, "v2": 2}, {"v1": 0.6, "v2": 0.6}} {
		wantCode(t, r.SetTraffic("m", weights), serving.InvalidArgument)
	}
	wantCode(t, r.SetTraffic("m", map[string]float64{"v3": 1}), serving.BackendNotFound)
}

func TestAnEndpointHasItsWholeTrafficFromTheStart(t *testing.T) {
	r := newRegistry(t)
	deploy(t, r, "v1", says("1"))
	deploy(t, r, "v2", says("2"))
	spec := serving.EndpointSpec{Traffic: map[string]float64{"v1": 0, "v2": 1}, Shadows: map[string]float64{"v1": 0.5}}
	if _, err := r.CreateEndpoint("m", spec); err != nil {
		t.Fatal(err)
	}
	for range 20 {
		if got, err := ask(r, "m", "", ""); got != "2" || err != nil {
			t.Fatalf("got %q, %v", got, err)
		}
	}
	if s, err := r.EndpointStatus("m"); err != nil || s.Shadows["v1"] != 0.5 {
		t.Errorf("status %+v, %v", s, err)
	}
}

func TestShadowsGetCopiesAndTheirAnswersAreDropped(t *testing.T) {
	r := newRegistry(t)
	shadowed := make(chan string, 100)
	deploy(t, r, "v1", says("1"))
	deploy(t, r, "v2", &model{fn: func(_ context.Context, in []string) ([]string, error) {
		for _, q := range in {
			shadowed <- q
		}
		return nil, errors.New("nobody must see this")
	}})
	endpoint(t, r, "m", "v1")
	if err := r.Shadow("m", "v2", 1); err != nil {
		t.Fatal(err)
	}
	for i := range 10 {
		if got, err := ask(r, "m", strconv.Itoa(i), ""); err != nil || got != strconv.Itoa(i)+"1" {
			t.Errorf("got %q, %v", got, err)
		}
	}
	for range 10 {
		<-shadowed
	}
	if err := r.SetTraffic("m", map[string]float64{"v1": 1}); err != nil {
		t.Fatal(err)
	}
	if s, _ := r.EndpointStatus("m"); s.Shadows["v2"] != 1 {
		t.Error("a change of traffic dropped the shadow")
	}
	wantCode(t, r.Delete(t.Context(), "v2"), serving.InUse)
	if err := r.Shadow("m", "v2", 0); err != nil {
		t.Fatal(err)
	}
	if err := r.Delete(t.Context(), "v2"); err != nil {
		t.Error(err)
	}
	wantCode(t, r.Shadow("m", "v1", 1.5), serving.InvalidArgument)
}

func TestAReplacedBackendLosesNoQueryUnderLoad(t *testing.T) {
	r := newRegistry(t)
	deploy(t, r, "m", says("0"))
	endpoint(t, r, "m", "m")
	stop := make(chan struct{})
	var asking sync.WaitGroup
	for range 8 {
		asking.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := ask(r, "m", "q", ""); err != nil {
					t.Errorf("a query during a replacement: %v", err)
					return
				}
			}
		})
	}
	for i := range 20 {
		if _, err := r.Deploy(t.Context(), "m", true, says(strconv.Itoa(i)).build("m", serving.Config{})); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	asking.Wait()
	if got, _ := ask(r, "m", "", ""); got != "19" {
		t.Errorf("the last version answers %q", got)
	}
}

func TestADeployThatFailsLeavesTheRunningVersion(t *testing.T) {
	r := newRegistry(t)
	deploy(t, r, "m", says("old"))
	endpoint(t, r, "m", "m")
	broken := says("new")
	broken.initErr = errors.New("no weights")
	_, err := r.Deploy(t.Context(), "m", true, broken.build("m", serving.Config{}))
	if load, ok := errors.AsType[*serving.LoadError](err); !ok || load.Message != "no weights" {
		t.Errorf("got %v", err)
	}
	if got, err := ask(r, "m", "", ""); got != "old" || err != nil {
		t.Errorf("after the failed deploy: %q, %v", got, err)
	}
}

func TestTwoDeploysOfOneNameEndInOneOfThemWhole(t *testing.T) {
	for _, replace := range []bool{false, true} {
		t.Run(fmt.Sprintf("replace %v", replace), func(t *testing.T) {
			r := newRegistry(t)
			models := []*model{says("0"), says("1")}
			errs := make([]error, 2)
			var deploying sync.WaitGroup
			for i, m := range models {
				deploying.Go(func() {
					_, errs[i] = r.Deploy(t.Context(), "m", replace, m.build("m", serving.Config{NumReplicas: 3}))
				})
			}
			deploying.Wait()
			endpoint(t, r, "m", "m")
			won, err := ask(r, "m", "", "")
			if err != nil {
				t.Fatal(err)
			}
			for range 50 { // each replica is of the winner
				if again, _ := ask(r, "m", "", ""); again != won {
					t.Fatalf("answers from both: %q and %q", won, again)
				}
			}
			if failed := (errs[0] != nil) != (errs[1] != nil); failed == replace {
				t.Errorf("errors: %v", errs)
			}
		})
	}
}

func TestReplicasFollowTheConfig(t *testing.T) {
	r := newRegistry(t)
	m := says("")
	deploy(t, r, "m", m)
	endpoint(t, r, "m", "m")
	update := func(patch string) {
		t.Helper()
		if err := r.UpdateConfig(t.Context(), "m", []byte(patch)); err != nil {
			t.Fatal(err)
		}
	}
	update(`{"num_replicas": 3}`)
	b, _ := r.Backend("m")
	if n := len(b.Status().Replicas); n != 3 || m.starts.Load() != 3 {
		t.Errorf("%d replicas, %d starts, want 3", n, m.starts.Load())
	}
	update(`{"num_replicas": 1}`)
	if n := len(b.Status().Replicas); n != 1 || m.closes.Load() != 2 {
		t.Errorf("%d replicas, %d closed, want 1 and 2", n, m.closes.Load())
	}
	update(`{"max_concurrent_batches": 2, "max_batch_size": 7, "batch_wait_timeout": "3ms"}`)
	c := b.Config()
	if m.starts.Load() != 4 || c.MaxBatchSize != 7 || time.Duration(c.BatchWaitTimeout) != 3*time.Millisecond || c.MaxQueued != 4096 {
		t.Errorf("%d starts, config %+v", m.starts.Load(), c)
	}
	if _, err := ask(r, "m", "", ""); err != nil {
		t.Error(err)
	}
	for patch, want := range map[string]string{
		`{"max_batchsize": 1}`:                            `did you mean "max_batch_size"?`,
		`{"max_batch_size": 0}`:                           "at least 1",
		`{"max_batch_size": "many"}`:                      `max_batch_size must be a whole number, not "many"`,
		`{"num_replicas": 2.5}`:                           "num_replicas must be a whole number, not 2.5",
		`{"num_replicas": 1001}`:                          "num_replicas must be at most 1000, got 1001",
		`{"max_concurrent_batches": 9223372036854775807}`: "max_concurrent_batches must be at most 10000",
		`{"expose_traceback": 1}`:                         "expose_traceback must be true or false, not 1",
		`{"env": {"A": 1}}`:                               `env must be an object whose values are texts; the value of "A" is a number`,
		`{"env": [1]}`:                                    "env must be an object, not a list",
		`{"env": {"A=B": "x"}}`:                           `cannot hold "=", as one does that begins with "A"`,
		`{"env": {"A": "x\u0000"}}`:                       "the value of A holds a zero byte",
		`{"timeout": "-5s"}`:                              "timeout must be more than 0, got -5s",
		`{"timeout": 0}`:                                  "timeout must be more than 0, got 0s",
		`{"timeout": 1e-12}`:                              "timeout must be more than 0",
		`{"timeout": 1e300}`:                              "1e300 seconds are more than",
		`{"batch_wait_timeout": -1e300}`:                  "-1e300 seconds are more than",
		`{"max_queued_bytes": 1e300}`:                     "neither a number of bytes",
		`{"max_queued_bytes": 1.5}`:                       "neither a number of bytes",
		`{"batch_wait_timeout": "3"}`:                     "with a unit",
		`{"batch_wait_timeout": "-3s"}`:                   "negative",
		`{"max_queued_bytes": "lots"}`:                    "is not a size",
		`[]`:                                              "config must be an object, not a list",

		`{"latency_slo": "-1ms"}`:                               "must not be negative",
		`{"latency_slo": "soon"}`:                               "with a unit",
		`{"latency_slo": "2ms"}`:                                "batch_wait_timeout (3ms) must be shorter than latency_slo (2ms)",
		`{"latency_slo": "50ms", "timeout": "20ms"}`:            "latency_slo (50ms) must not be longer than timeout (20ms)",
		`{"latency_slo": "50ms", "batch_wait_timeout": "50ms"}`: "must be shorter",

		`{"caller_weights": {"a": 0}}`:   `caller_weights: the weight of "a" must be from 0.001 to 1000, got 0`,
		`{"caller_weights": {"a": "x"}}`: `caller_weights must be an object whose values are numbers, not {"a": "x"}`,
		`{"caller_weights": [1]}`:        "caller_weights must be an object, not [1]",
		`{"queue_time_target": "-1s"}`:   "queue_time_target must not be negative, got -1s",
		`{"isolate_callers": 1}`:         "isolate_callers must be true or false",
	} {
		err := r.UpdateConfig(t.Context(), "m", []byte(patch))
		wantCode(t, err, serving.InvalidArgument)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("patch %s: %v does not say %q", patch, err, want)
		}
	}
	if b.Config().MaxBatchSize != 7 {
		t.Error("a refused patch changed the config")
	}
	update(`{"max_batch_size": 9223372036854775807, "max_queued": 9223372036854775807, "max_queued_bytes": 1e6, "timeout": 9e9}`)
	if got, err := ask(r, "m", "q", ""); got != "q" || err != nil || b.Config().MaxQueuedBytes != 1_000_000 {
		t.Errorf("at the limits: %q, %v, %+v", got, err, b.Config())
	}
}

func TestAModelThatPanicsFailsItsBatchAndLivesOn(t *testing.T) {
	r := newRegistry(t)
	deploy(t, r, "m", &model{fn: func(_ context.Context, in []string) ([]string, error) {
		if in[0] == "panic" {
			panic("boom")
		}
		return in, nil
	}})
	endpoint(t, r, "m", "m")
	_, err := ask(r, "m", "panic", "")
	failure, ok := errors.AsType[*serving.ModelError](err)
	if !ok || failure.Type != "panic" || !strings.Contains(failure.Message, "boom") || !strings.Contains(failure.Traceback, "serving_test") {
		t.Errorf("got %#v", err)
	}
	if got, err := ask(r, "m", "fine", ""); got != "fine" || err != nil {
		t.Errorf("after the panic: %q, %v", got, err)
	}
}

func TestAClosedRegistryRefusesEverythingAndHasAnsweredWhatItAccepted(t *testing.T) {
	r := serving.NewRegistry()
	release := make(chan struct{})
	deploy(t, r, "m", &model{fn: func(_ context.Context, in []string) ([]string, error) {
		<-release
		return in, nil
	}})
	endpoint(t, r, "m", "m")
	e, _ := r.Endpoint("m")
	answered := make(chan error, 10)
	for range 10 {
		c := &serving.Call{Done: func(c *serving.Call) { answered <- c.Err }}
		if err := e.Submit(c); err != nil {
			t.Fatal(err)
		}
	}
	closed := make(chan error)
	go func() { closed <- r.Close(t.Context()) }()
	for b, _ := r.Backend("m"); b.Status().State != serving.StateDraining; {
		time.Sleep(time.Millisecond) // until Close has begun
	}
	if _, err := ask(r, "m", "late", ""); !errors.Is(err, batch.ErrDraining) {
		t.Errorf("a query during the close: %v", err)
	}
	wantCode(t, r.DeleteEndpoint("m"), serving.Draining)
	close(release)
	if err := <-closed; err != nil {
		t.Error(err)
	}
	for range 10 {
		if err := <-answered; err != nil {
			t.Errorf("an accepted query: %v", err)
		}
	}
}

func TestReadinessNeedsEveryExampleComputedOnce(t *testing.T) {
	r := newRegistry(t)
	var calls atomic.Int32
	healthy := errors.New("not yet")
	var state atomic.Pointer[error]
	state.Store(&healthy)
	deploy(t, r, "m", &model{fn: func(_ context.Context, in []string) ([]string, error) {
		calls.Add(1)
		if err := *state.Load(); err != nil {
			return nil, err
		}
		return in, nil
	}})
	if _, err := r.CreateEndpoint("m", serving.EndpointSpec{Backend: "m", Example: &serving.Example{Query: map[string]any{"n": 1}}}); err != nil {
		t.Fatal(err)
	}
	p := serving.NewProber(r)
	if err := p.Ready(t.Context()); err == nil || !strings.Contains(err.Error(), "not yet") {
		t.Errorf("ready although the example fails: %v", err)
	}
	var well error
	state.Store(&well)
	for range 3 {
		if err := p.Ready(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if calls.Load() != 2 {
		t.Errorf("the model was probed %d times, want once failing and once well", calls.Load())
	}
	if _, err := r.Deploy(t.Context(), "m", true, says("2").build("m", serving.Config{})); err != nil {
		t.Fatal(err)
	}
	if err := p.Ready(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestARefusedConfigDoesNotTellSecrets(t *testing.T) {
	for _, text := range []string{
		`{"env": {"DB_PASSWORD": "hunter2", "PORT": 1}}`, `{"env": {"PIN": {"hunter2": 1}}}`, `{"env": ["hunter2"]}`, `{"env": "hunter2"}`,
		`{"env": {"DB_PASSWORD=hunter2": ""}}`, `{"env": {"DB_PASSWORD": "hunter2\u0000"}}`, `{"env": {"DB_PASSWORD": "hunter2}}`,
		`["hunter2"]`, `"hunter2"`, `{"warm_up": "hunter2"}`, `{"warm_up": ["hunter2"]}`, `{"warm_up": {"requests": "hunter2"}}`,
	} {
		_, err := serving.DecodeConfig(serving.Config{}, []byte(text))
		wantCode(t, err, serving.InvalidArgument)
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// What a call brought counts against the bytes that may wait, also where a Go model
// does not say how large its input is.
func TestBytesThatWaitAreCountedOfGoModelsToo(t *testing.T) {
	r := newRegistry(t)
	release := make(chan struct{})
	slow := &model{fn: func(_ context.Context, in []string) ([]string, error) {
		<-release
		return in, nil
	}}
	if _, err := r.Deploy(t.Context(), "m", false, slow.build("m", serving.Config{MaxQueuedBytes: 1000, MaxBatchSize: 1})); err != nil {
		t.Fatal(err)
	}
	if _, err := r.CreateEndpoint("e", serving.EndpointSpec{Backend: "m"}); err != nil {
		t.Fatal(err)
	}
	e, err := r.Endpoint("e")
	if err != nil {
		t.Fatal(err)
	}
	var answers sync.WaitGroup
	submit := func(size int) error {
		answers.Add(1)
		err := e.Submit(&serving.Call{Origin: batch.Web, Request: &serving.Request{Method: "POST", Body: make([]byte, size)}, Done: func(*serving.Call) { answers.Done() }})
		if err != nil {
			answers.Done()
		}
		return err
	}
	for _, size := range []int{1, 600, 300} { // the first one is computed
		if err := submit(size); err != nil {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
	overload, refused := errors.AsType[*batch.OverloadError](submit(200))
	if !refused || overload.Reason != batch.QueueBytes {
		t.Errorf("200 bytes more: %v", overload)
	}
	close(release)
	answers.Wait()
}
