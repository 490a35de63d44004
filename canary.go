package shoal

import (
	"time"

	"github.com/shoalserve/shoal/internal/serving"
)

// Canary says how a new version takes over an endpoint's traffic, step by step,
// and what turns it back: failures that are significantly more than the others' always do.
// Zero fields take their defaults.
type Canary struct {
	// Backend is the new version. It is deployed already and has no traffic.
	Backend string
	// Steps are its shares of the traffic, one after the other; the last is always
	// 1. Default 0.05, 0.25, 0.5 and 1.
	Steps []float64
	// StepTime is how long each step takes at least. Default 1m.
	StepTime time.Duration
	// MinQueries is how many queries it answers in each step at least. Default 50.
	MinQueries int
	// MaxErrorRate turns it back when more of its queries fail. Default none.
	MaxErrorRate float64
	// MaxLatencyRatio turns it back when its mean latency or the 99th percentile is so many
	// times that of the others. Default none.
	MaxLatencyRatio float64
	// Compare has it be a shadow first, until the answers to MinCompared (default 100)
	// HTTP queries were compared. If more than the part MaxDifferent of them (default 0) differ,
	// it gets no traffic at all. Default nil: it gets traffic at once.
	Compare      *Compare
	MinCompared  int
	MaxDifferent float64
}

// Compare says when two answers are the same. Two numbers may be apart by Tolerance (a
// float64, default 1e-5), or by that part of the larger. Lists of more than TopK numbers are
// compared by the places of their TopK largest (default 0: by values). Ignore are paths
// into JSON that are not looked at, such as "took" or "items.*.id".
type Compare = serving.Compare

// CanaryInfo tells where a canary stands.
type CanaryInfo struct {
	Backend string
	State   CanaryState
	Weight  float64 // its share of the traffic
	Reason  string  // why it ended
	// What was counted: of the canary in this step, of the others all the time.
	Queries, Errors                 uint64
	BaselineQueries, BaselineErrors uint64
}

// CanaryState is where a canary stands.
type CanaryState = serving.CanaryState

// The states of a canary. The last three are final.
const (
	CanaryComparing  = serving.CanaryComparing  // its answers are compared
	CanaryShifting   = serving.CanaryShifting   // it goes through its steps
	CanaryPromoted   = serving.CanaryPromoted   // it has all of the traffic
	CanaryRolledBack = serving.CanaryRolledBack // it did worse; the traffic is what it was before
	CanaryAborted    = serving.CanaryAborted    // somebody ended it, or set the traffic
)

// StartCanary has a backend take over an endpoint's traffic step by step. An
// endpoint whose canary runs already is [ErrAlreadyExists].
func (a *App) StartCanary(endpoint string, c Canary) error {
	_, err := a.registry.StartCanary(endpoint, serving.CanarySpec{
		Backend: c.Backend, Steps: c.Steps, StepTime: serving.Duration(c.StepTime), MinQueries: c.MinQueries,
		MaxErrorRate: c.MaxErrorRate, MaxLatencyRatio: c.MaxLatencyRatio,
		Compare: c.Compare, MinCompared: c.MinCompared, MaxDifferent: c.MaxDifferent,
	})
	return err
}

// Canary tells of the endpoint's canary that runs, or the last that ran; false
// if there was none. An endpoint that does not exist is [ErrEndpointNotFound].
func (a *App) Canary(endpoint string) (info CanaryInfo, ok bool, err error) {
	s, err := a.registry.EndpointStatus(endpoint)
	if err != nil || s.Canary == nil {
		return CanaryInfo{}, false, err
	}
	c := s.Canary
	return CanaryInfo{
		Backend: c.Backend, State: c.State, Weight: c.Weight, Reason: c.Reason, Queries: c.Canary.Queries, Errors: c.Canary.Errors,
		BaselineQueries: c.Baseline.Queries, BaselineErrors: c.Baseline.Errors,
	}, true, nil
}

// PromoteCanary gives an endpoint's canary all of the traffic now. One that is
// over is [ErrInvalidArgument], unless it was promoted.
func (a *App) PromoteCanary(endpoint string) error {
	_, err := a.registry.PromoteCanary(endpoint)
	return err
}

// AbortCanary turns an endpoint's canary back: the traffic is what it was before.
// One that is over is [ErrInvalidArgument], unless it was aborted.
func (a *App) AbortCanary(endpoint string) error {
	_, err := a.registry.AbortCanary(endpoint)
	return err
}
