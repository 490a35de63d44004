package serving

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"sync"
	"time"
)

// CanarySpec says how a new version takes over an endpoint's traffic, step by
// step, and what turns it back.
type CanarySpec struct {
	// Backend is the canary.
	Backend string `json:"backend"`
	// Steps are the canary's shares of the traffic, one after the other. Default
	// 0.05, 0.25, 0.5 and 1; the last is always 1.
	Steps []float64 `json:"steps,omitempty"`
	// StepTime is how long each step takes at least. Default 1m.
	StepTime Duration `json:"step_time,omitzero"`
	// MinQueries is how many queries the canary answers in each step at least.
	// Default 50.
	MinQueries int `json:"min_queries,omitempty"`
	// MaxErrorRate turns the canary back when more of its queries fail. Default
	// none: it counts whether significantly more fail than of the others.
	MaxErrorRate float64 `json:"max_error_rate,omitempty"`
	// MaxLatencyRatio turns the canary back when its mean or its 99th percentile
	// is so many times that of the others. Default none.
	MaxLatencyRatio float64 `json:"max_latency_ratio,omitempty"`
	// Compare has the canary be a shadow first, until MinCompared (default 100)
	// answers were compared. More than MaxDifferent of them (default 0) turn it
	// back before it gets any traffic.
	Compare      *Compare `json:"compare,omitempty"`
	MinCompared  int      `json:"min_compared,omitempty"`
	MaxDifferent float64  `json:"max_different,omitempty"`
}

// CanaryState is where a canary stands.
//
//	comparing ──▶ shifting ──▶ promoted
//	    │            │
//	    └────────────┴──▶ rolled_back | aborted
//
// Without Compare it begins with shifting, which goes through the steps.
type CanaryState string

// The states of a canary.
const (
	CanaryComparing  CanaryState = "comparing"
	CanaryShifting   CanaryState = "shifting"
	CanaryPromoted   CanaryState = "promoted"
	CanaryRolledBack CanaryState = "rolled_back" // by what was observed
	CanaryAborted    CanaryState = "aborted"     // by somebody
)

func (s CanaryState) over() bool { return s != CanaryComparing && s != CanaryShifting }

// CanaryStatus is a canary as operators see it.
type CanaryStatus struct {
	Backend string      `json:"backend"`
	State   CanaryState `json:"state"`
	Weight  float64     `json:"weight"` // its share of the traffic
	Step    int         `json:"step"`   // from 1; 0 while it is compared
	Steps   int         `json:"steps"`
	// Reason says why it ended.
	Reason string `json:"reason,omitempty"`
	// What was counted: of the canary in this step, of the others all the time.
	Canary   ArmStatus `json:"canary"`
	Baseline ArmStatus `json:"baseline"`
	// Comparison is there with Compare.
	Comparison *ComparisonStatus `json:"comparison,omitempty"`
}

// ArmStatus counts the queries of one side.
type ArmStatus struct {
	Queries uint64   `json:"queries"`
	Errors  uint64   `json:"errors"`
	Mean    Duration `json:"mean"`
	P99     Duration `json:"p99"`
}

// Check fills the defaults and refuses what makes no sense. Once checked, a spec stays as it is.
func (s *CanarySpec) Check() error {
	fail := func(format string, args ...any) error { return Errorf(InvalidArgument, "canary: "+format, args...) }
	if s.Steps == nil {
		s.Steps = []float64{0.05, 0.25, 0.5, 1}
	}
	last := 0.0
	for _, step := range s.Steps {
		if !(step > last && step <= 1) {
			return fail("steps must grow from more than 0 to 1, got %v", s.Steps)
		}
		last = step
	}
	if last < 1 {
		s.Steps = append(slices.Clone(s.Steps), 1)
	}
	switch {
	case s.StepTime < 0:
		return fail("step_time must not be negative, got %v", time.Duration(s.StepTime))
	case s.MinQueries < 0 || s.MinCompared < 0:
		return fail("min_queries and min_compared must not be negative")
	case !(s.MaxErrorRate >= 0 && s.MaxErrorRate < 1):
		return fail("max_error_rate must be at least 0 and less than 1, got %v", s.MaxErrorRate)
	case !(s.MaxDifferent >= 0 && s.MaxDifferent < 1):
		return fail("max_different must be at least 0 and less than 1, got %v", s.MaxDifferent)
	case s.MaxLatencyRatio != 0 && !(s.MaxLatencyRatio > 1 && !math.IsInf(s.MaxLatencyRatio, 1)):
		return fail("max_latency_ratio must be more than 1, got %v", s.MaxLatencyRatio)
	case s.Compare == nil && (s.MinCompared > 0 || s.MaxDifferent > 0):
		return fail("min_compared and max_different need compare")
	}
	if s.StepTime == 0 {
		s.StepTime = Duration(time.Minute)
	}
	if s.MinQueries == 0 {
		s.MinQueries = 50
	}
	if s.MinCompared == 0 && s.Compare != nil {
		s.MinCompared = 100
	}
	return s.Compare.check()
}

// canaries are those of a registry, by endpoint. Locks are taken in this order: mu, the
// mu of canaries, that of the registry.
type canaries struct {
	log *slog.Logger // nil: nothing is logged

	mu      sync.Mutex
	all     map[string]*canary
	running sync.WaitGroup
}

// close ends all that run and leaves their traffic as it is. The registry takes no
// changes any more, so that none is started.
func (c *canaries) close() {
	c.mu.Lock()
	for _, run := range c.all {
		run.cancel()
	}
	c.mu.Unlock()
	c.running.Wait()
}

func (c *canaries) get(endpoint string) *canary {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.all[endpoint]
}

// hold locks the canaries of endpoints: until release none of them moves, and none is
// started or forgotten.
func (c *canaries) hold(endpoints ...string) (release func()) {
	c.mu.Lock()
	var held []*canary
	for _, name := range slices.Compact(slices.Sorted(slices.Values(endpoints))) {
		if run := c.all[name]; run != nil {
			run.mu.Lock()
			held = append(held, run)
		}
	}
	return func() {
		for _, run := range held {
			run.mu.Unlock()
		}
		c.mu.Unlock()
	}
}

// launch lets a canary run that has begun. mu is held.
func (c *canaries) launch(run *canary) {
	if c.all == nil {
		c.all = make(map[string]*canary)
	}
	c.all[run.endpoint] = run
	run.tell()
	c.running.Go(run.run) // ends with the canary; close waits for it
}

// forget ends and forgets the canary of an endpoint that is gone. It is held.
func (c *canaries) forget(endpoint string) {
	if run := c.all[endpoint]; run != nil {
		delete(c.all, endpoint)
		run.drop("its endpoint was removed")
	}
}

// canary is one canary's life, which one goroutine moves on.
type canary struct {
	registry *Registry
	endpoint string
	spec     CanarySpec
	moving   context.Context // ends with the canary
	cancel   context.CancelFunc

	before map[string]float64 // the traffic that it is turned back to
	shadow float64            // the canary's own proportion as a shadow before

	mu         sync.Mutex
	declared   *declaration // nil: it was started by a call, or is not declared any more
	state      CanaryState
	step       int // index of spec.Steps; -1 while it is compared
	since      time.Time
	looks      int // tests so far
	watch      *watch
	stored     *watch // the endpoint's, as this canary left it; before, as it was found
	comparison *comparison
	reason     string
}

// LogCanaries has what canaries do logged. It is called before any is started.
func (r *Registry) LogCanaries(log *slog.Logger) { r.canaries.log = log }

// StartCanary has a backend take over an endpoint's traffic as the spec says. A
// canary of the endpoint that runs already is AlreadyExists.
func (r *Registry) StartCanary(endpoint string, spec CanarySpec) (CanaryStatus, error) {
	if err := spec.Check(); err != nil {
		return CanaryStatus{}, err
	}
	c := r.newCanary(endpoint, spec, nil)
	if err := c.start(); err != nil {
		c.cancel()
		return CanaryStatus{}, err
	}
	return c.status(), nil
}

func (r *Registry) newCanary(endpoint string, spec CanarySpec, as *declaration) *canary {
	c := &canary{registry: r, endpoint: endpoint, spec: spec, declared: as, step: -1}
	c.moving, c.cancel = context.WithCancel(r.ctx)
	return c
}

func (c *canary) start() error {
	all := &c.registry.canaries
	defer all.hold(c.endpoint)()
	if other := all.all[c.endpoint]; other != nil && !other.state.over() {
		return Errorf(AlreadyExists, "endpoint %q has a canary already, %q; abort or promote it first", c.endpoint, other.spec.Backend)
	}
	if err := c.registry.change(c.begin); err != nil {
		return err
	}
	all.launch(c)
	return nil
}

// begin notes what is in a table and makes the first change to it. Nobody else has the
// canary yet.
func (c *canary) begin(t *table) error {
	e, err := t.endpoint(c.endpoint)
	if err != nil {
		return err
	}
	if _, ok := t.backends[c.spec.Backend]; !ok {
		return backendNotFound(c.spec.Backend, t.backends)
	}
	c.before, c.shadow = weights(e.traffic), weights(e.shadows)[c.spec.Backend]
	if c.before[c.spec.Backend] > 0 {
		return Errorf(InvalidArgument, "backend %q gets traffic of endpoint %q already; set its weight to 0 first", c.spec.Backend, c.endpoint)
	}
	delete(c.before, c.spec.Backend)
	c.stored = e.watch // nil, or of a canary that is over
	c.watch = &watch{canary: c.spec.Backend, arms: [2]*arm{new(arm), new(arm)}, before: weights(e.traffic)}
	if c.spec.Compare == nil {
		return c.next(t)
	}
	c.comparison = &comparison{spec: *c.spec.Compare, wait: &c.registry.comparing}
	if err := c.put(t, c.before, 1, true); err != nil {
		return err
	}
	c.state, c.since = CanaryComparing, time.Now()
	return nil
}

// errOverruled is what a canary ends with that finds another's traffic.
var errOverruled = Errorf(InvalidArgument, "somebody else changed the endpoint's traffic")

// put changes the endpoint in a table: its traffic, the canary's proportion as a shadow,
// and whether the canary is watched. It is errOverruled, and changes nothing, if
// somebody changed the traffic since the canary looked.
func (c *canary) put(t *table, traffic map[string]float64, shadow float64, watched bool) error {
	var stored *watch
	if watched {
		stored = c.watch
	}
	err := t.changeEndpoint(c.endpoint, func(e *Endpoint) (err error) {
		if e.watch != c.stored {
			return errOverruled
		}
		if e.traffic, err = newTraffic(traffic, t.backends); err != nil {
			return err
		}
		if e.shadows, err = withShadow(e.shadows, c.spec.Backend, shadow, t.backends); err != nil {
			return err
		}
		e.watch = stored
		if watched {
			e.compareShadow(c.spec.Backend, c.comparison)
		}
		return nil
	})
	if err == nil {
		c.stored = stored
	}
	return err
}

// next goes to the next step, or promotes the canary after the last. mu is held.
func (c *canary) next(t *table) error {
	if c.step+1 == len(c.spec.Steps) {
		return c.finish(t, CanaryPromoted, "it went through all steps")
	}
	c.step++
	c.watch = &watch{canary: c.spec.Backend, arms: [2]*arm{c.watch.arms[0], new(arm)}, before: c.watch.before}
	weight := c.spec.Steps[c.step]
	shifted := map[string]float64{c.spec.Backend: weight}
	for name, w := range c.before {
		shifted[name] = w * (1 - weight) // also of 0: so that they stay, to be turned back to
	}
	if err := c.put(t, shifted, c.shadow, true); err != nil {
		return err
	}
	c.state, c.since = CanaryShifting, time.Now()
	return nil
}

// finish ends the canary, with all of the traffic or with what was before. On an
// error it is not over. mu is held.
func (c *canary) finish(t *table, state CanaryState, reason string) error {
	step, traffic := c.step, c.before
	if state == CanaryPromoted {
		step, traffic = len(c.spec.Steps), map[string]float64{c.spec.Backend: 1}
	}
	if err := c.put(t, traffic, c.shadow, false); err != nil {
		return err
	}
	c.step = step
	c.end(state, reason)
	return nil
}

// end ends the canary and leaves the traffic as it is. mu is held.
func (c *canary) end(state CanaryState, reason string) {
	c.state, c.reason = state, reason
	c.cancel()
}

// drop ends a canary, if it is not over, and leaves the traffic as it is. Nothing
// declares it any more. mu is held.
func (c *canary) drop(reason string) {
	c.declared = nil
	if !c.state.over() {
		c.end(CanaryAborted, reason)
		c.tell()
	}
}

// overruled ends the canary since others changed the traffic. mu is held.
func (c *canary) overruled() { c.end(CanaryAborted, errOverruled.Message) }

// tell logs where the canary stands now. mu is held.
func (c *canary) tell() {
	log := c.registry.canaries.log
	if log == nil {
		return
	}
	log = log.With("endpoint", c.endpoint, "backend", c.spec.Backend)
	switch c.state {
	case CanaryComparing:
		log.Info("canary is compared", "queries", c.spec.MinCompared)
	case CanaryShifting:
		log.Info("canary gets traffic", "weight", c.spec.Steps[c.step])
	case CanaryRolledBack:
		log.Error("canary "+string(c.state), "reason", c.reason)
	default:
		log.Info("canary "+string(c.state), "reason", c.reason)
	}
}

// run looks at the canary until it is over.
func (c *canary) run() {
	ticker := time.NewTicker(min(time.Second, max(time.Duration(c.spec.StepTime)/4, 10*time.Millisecond)))
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			c.look()
		case <-c.moving.Done():
			return
		}
	}
}

// look decides from what was counted so far.
func (c *canary) look() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state.over() {
		return
	}
	if e, err := c.registry.Endpoint(c.endpoint); err != nil || e.watch != c.watch {
		c.overruled()
		c.tell()
		return
	}
	var err error
	switch bad, enough := c.judge(); {
	case bad != "":
		err = c.registry.change(func(t *table) error { return c.finish(t, CanaryRolledBack, bad) })
	case enough:
		err = c.registry.change(c.next)
	default:
		return
	}
	if err != nil { // a backend is gone, the server closes, or somebody was faster
		c.end(CanaryAborted, err.Error())
	}
	c.tell()
}

// judge returns what is wrong with the canary, or whether this stage is over.
// mu is held.
func (c *canary) judge() (bad string, enough bool) {
	if c.state == CanaryComparing {
		return c.judgeAnswers()
	}
	others, canary := c.watch.arms[0].tally(), c.watch.arms[1].tally()
	if bad := c.judgeErrors(others, canary); bad != "" {
		return bad, false
	}
	enough = canary.queries >= uint64(c.spec.MinQueries) && time.Since(c.since) >= time.Duration(c.spec.StepTime)
	if c.spec.MaxLatencyRatio > 0 && min(others.timed, canary.timed) >= uint64(c.spec.MinQueries) {
		for what, times := range map[string][2]time.Duration{"mean": {others.mean, canary.mean}, "99th percentile": {others.p99, canary.p99}} {
			if ratio := float64(times[1]) / float64(max(1, times[0])); ratio > c.spec.MaxLatencyRatio {
				return fmt.Sprintf("the %s of its latency is %v, %.1f times the %v of the others", what, times[1], ratio, times[0]), false
			}
		}
	}
	return "", enough
}

func (c *canary) judgeAnswers() (bad string, enough bool) {
	s := c.comparison.status()
	if float64(s.Different) > c.spec.MaxDifferent*float64(c.spec.MinCompared) {
		return fmt.Sprintf("of %d answers %d differ from the others', such as %s", s.Compared, s.Different, s.Samples[len(s.Samples)-1]), false
	}
	return "", s.Compared >= uint64(c.spec.MinCompared)
}

func (c *canary) judgeErrors(others, canary tally) string {
	if canary.errors == 0 {
		return ""
	}
	c.looks++
	level := significant(c.looks)
	said := fmt.Sprintf("%d of its %d queries failed", canary.errors, canary.queries)
	if others.queries > 0 && fisher(others.errors, others.queries, canary.errors, canary.queries) < level {
		return fmt.Sprintf("%s, and %d of %d of the others", said, others.errors, others.queries)
	}
	if c.spec.MaxErrorRate > 0 && exceeds(canary.errors, canary.queries, c.spec.MaxErrorRate) < level {
		return fmt.Sprintf("%s, more than max_error_rate %v", said, c.spec.MaxErrorRate)
	}
	return ""
}

// AbortCanary turns an endpoint's canary back; one that is over is left alone.
func (r *Registry) AbortCanary(endpoint string) (CanaryStatus, error) {
	return r.endCanary(endpoint, CanaryAborted)
}

// PromoteCanary gives an endpoint's canary all of the traffic now.
func (r *Registry) PromoteCanary(endpoint string) (CanaryStatus, error) {
	return r.endCanary(endpoint, CanaryPromoted)
}

func (r *Registry) endCanary(endpoint string, state CanaryState) (CanaryStatus, error) {
	c := r.canaries.get(endpoint)
	if c == nil {
		return CanaryStatus{}, Errorf(InvalidArgument, "endpoint %q has no canary", endpoint)
	}
	c.mu.Lock()
	var err error
	if !c.state.over() {
		err = r.change(func(t *table) error { return c.finish(t, state, "somebody asked for it") })
		if errors.Is(err, errOverruled) {
			c.overruled()
			err = nil
		}
		if err == nil {
			c.tell()
		}
	}
	now := c.state
	c.mu.Unlock()
	if err == nil && now != state {
		err = Errorf(InvalidArgument, "the canary of endpoint %q is over already: %s", endpoint, now)
	}
	return c.status(), err
}

func (c *canary) status() CanaryStatus {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := CanaryStatus{
		Backend: c.spec.Backend, State: c.state, Step: min(c.step+1, len(c.spec.Steps)), Steps: len(c.spec.Steps), Reason: c.reason,
		Baseline: c.watch.arms[0].tally().status(), Canary: c.watch.arms[1].tally().status(),
	}
	switch c.state {
	case CanaryPromoted:
		s.Weight = 1
	case CanaryShifting:
		s.Weight = c.spec.Steps[c.step]
	}
	if c.comparison != nil {
		compared := c.comparison.status()
		s.Comparison = &compared
	}
	return s
}

func (t tally) status() ArmStatus {
	return ArmStatus{Queries: t.queries, Errors: t.errors, Mean: Duration(t.mean), P99: Duration(t.p99)}
}

// weights are the shares by their backends' names.
func weights(shares []share) map[string]float64 {
	all := make(map[string]float64)
	for _, s := range shares {
		all[s.backend.Name()] = s.weight
	}
	return all
}

// describe is an endpoint's status with its comparisons and its canary.
func (r *Registry) describe(e *Endpoint) EndpointStatus {
	s := e.status()
	for _, shadow := range e.shadows {
		if shadow.comparison != nil {
			if s.Comparisons == nil {
				s.Comparisons = make(map[string]ComparisonStatus)
			}
			s.Comparisons[shadow.backend.Name()] = shadow.comparison.status()
		}
	}
	if c := r.canaries.get(e.Name); c != nil {
		status := c.status()
		s.Canary = &status
	}
	return s
}

// CompareShadow is [Registry.Shadow] that compares the shadow's answers with the
// endpoint's, anew each time.
func (r *Registry) CompareShadow(endpoint, backend string, proportion float64, how Compare) error {
	if err := how.check(); err != nil {
		return err
	}
	return r.changeEndpoint(endpoint, func(e *Endpoint, t *table) (err error) {
		if e.shadows, err = withShadow(e.shadows, backend, proportion, t.backends); err != nil {
			return err
		}
		e.compareShadow(backend, &comparison{spec: how, wait: &r.comparing})
		return nil
	})
}
