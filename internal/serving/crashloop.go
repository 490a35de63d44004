package serving

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/shoalserve/shoal/batch"
)

// Diagnosed is an [Instance] that can tell more about its end than its Err, for
// those who run the server: callers are not shown it.
type Diagnosed interface {
	// Diagnosis is empty if there is nothing to add.
	Diagnosis() string
}

const (
	// steady is how long an instance must live for its death to count as a new
	// trouble and not as the same one again, unless it has answered something.
	steady = time.Minute
	// crashLoop is how many failures in a row are a crash loop.
	crashLoop = 5
)

// newPause returns the growing pauses between restarts: about 100 ms, 200 ms,
// 400 ms, … and at most a minute. Each is up to a half longer or shorter, so that
// replicas which failed together do not start together.
func newPause() *backoff.ExponentialBackOff {
	b := backoff.NewExponentialBackOff()
	b.InitialInterval, b.Multiplier, b.MaxInterval = 100*time.Millisecond, 2, time.Minute
	return b
}

// credit forgets the failures of a replica whose instance was of use.
func (r *replica[In, Out]) credit(started time.Time, attached *batch.Replica[In, Out]) {
	if time.Since(started) > steady || attached.Activity().Answered > 0 {
		r.failures = 0
		r.pause.Reset()
	}
}

// fail records why an instance ended or could not start; from the goroutine of
// supervise.
func (r *replica[In, Out]) fail(reason RestartReason, err error, diagnosis string) {
	r.failures++
	r.next = r.pause.NextBackOff()
	state, message := StateFailed, "replica failed and will be restarted"
	if r.failures >= crashLoop {
		state, message = StateCrashLooping, "replica fails again and again"
	}
	r.mu.Lock()
	r.now.State, r.now.PID, r.now.Error = state, 0, err.Error()
	r.now.Restarts++
	restarts := r.now.Restarts
	r.mu.Unlock()
	r.pool.restarts.add(reason)
	attrs := []any{"replica", r.index, "restarts", restarts, "reason", reason, "failures_in_a_row", r.failures, "next_start_in", r.next.Round(time.Millisecond), "error", err}
	if diagnosis != "" {
		attrs = append(attrs, "diagnosis", diagnosis)
	}
	r.pool.log.Error(message, attrs...)
	r.pool.judge(err, r.next)
}

// diagnosis is what an instance says about its end, if it says anything.
func diagnosis[In, Out any](instance Instance[In, Out]) string {
	if d, ok := instance.(Diagnosed); ok {
		return d.Diagnosis()
	}
	return ""
}

// traceback is what a start failed with, in full.
func traceback(err error) string {
	if load, ok := errors.AsType[*LoadError](err); ok {
		return load.Traceback
	}
	return ""
}

// judgement is whether a backend refuses queries because of its replicas.
type judgement struct {
	mu      sync.Mutex
	refuses bool
	last    error         // the newest failure
	next    time.Duration // from it to the next attempt
}

// judge has the backend refuse queries at once while every one of its replicas
// is in a crash loop: they would wait for nothing. Last is the newest failure, if it is
// new, and next the time to the next attempt.
func (p *Pool[In, Out]) judge(last error, next time.Duration) {
	j := &p.judgement
	j.mu.Lock()
	defer j.mu.Unlock()
	if last != nil {
		j.last, j.next = last, next
	}
	hopeless := p.allCrashLoop()
	switch {
	case hopeless:
		p.batcher.Refuse(&Error{
			Code: Unavailable, RetryAfter: j.next,
			Message: fmt.Sprintf("backend %q: its replicas fail again and again, the last time so: %v; see `shoal logs %s`", p.name, j.last, p.name),
		})
	case j.refuses:
		p.batcher.Refuse(nil)
	}
	j.refuses = hopeless
}

// allCrashLoop reports whether nothing but crash loops is left.
func (p *Pool[In, Out]) allCrashLoop() bool {
	p.statusMu.Lock()
	defer p.statusMu.Unlock()
	for _, r := range p.shown {
		if r.status().State != StateCrashLooping {
			return false
		}
	}
	return len(p.shown) > 0
}

// together is how a backend stands whose replicas stand so: the best of them counts,
// but that one failed is told rather than that another starts.
func together(replicas []ReplicaStatus) State {
	for _, state := range []State{StateReady, StateFailed, StateStarting, StateCrashLooping} {
		if slices.ContainsFunc(replicas, func(r ReplicaStatus) bool { return r.State == state }) {
			return state
		}
	}
	return StateStarting
}
