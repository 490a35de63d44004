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

// fail records why an instance ended or could not start; from the goroutine of
// supervise. reckon then says what follows from it.
func (r *replica[In, Out]) fail(reason RestartReason, err error, diagnosis string) {
	r.mu.Lock()
	r.now.State, r.now.PID, r.now.Error = StateFailed, 0, err.Error()
	r.now.Restarts++
	restarts := r.now.Restarts
	r.mu.Unlock()
	r.pool.restarts.add(reason)
	attrs := []any{"replica", r.index, "restarts", restarts, "reason", reason, "error", err}
	if diagnosis != "" {
		attrs = append(attrs, "diagnosis", diagnosis)
	}
	r.pool.log.Error("replica failed and will be restarted", attrs...)
}

// outlived decides what the failure err of an instance counts for that had begun to
// work, once its queries have ended. That it answered some, or lived long, ends the row
// of failures before it.
func (r *replica[In, Out]) outlived(err error, started time.Time, attached *batch.Replica[In, Out]) {
	a := attached.Activity()
	if time.Since(started) > steady || a.Answered > 0 {
		r.forget()
	}
	if r.pool.works.look(r.pool.batcher.Stats().Answered) && a.Blamed {
		r.pool.pardons.Add(1)
	}
	r.reckon(err, a.Blamed)
}

// reckon counts a failure, unless it was pardoned, and decides when the replica is
// started again. From the goroutine of supervise.
func (r *replica[In, Out]) reckon(err error, blamed bool) {
	pardons := r.pool.pardons.Load()
	pardoned := pardons != r.pardons
	if pardoned {
		r.pardons = pardons
		r.forget()
	}
	if !pardoned || !blamed {
		r.failures++
	}
	r.next = r.pause.NextBackOff()
	if r.failures < crashLoop {
		r.block(nil)
		return
	}
	r.set(StateCrashLooping, 0)
	r.pool.log.Error("replica fails again and again", "replica", r.index, "failures_in_a_row", r.failures, "next_start_in", r.next.Round(time.Millisecond), "error", err)
	r.block(&Error{
		Code: Unavailable, RetryAfter: r.next,
		Message: fmt.Sprintf("backend %q: its replicas fail again and again, the last time so: %v; see `shoal logs %s`", r.pool.name, err, r.pool.name),
	})
}

// forget ends a row of failures.
func (r *replica[In, Out]) forget() {
	r.failures = 0
	r.pause.Reset()
}

// proof is when a model was last known to work.
type proof struct {
	mu       sync.Mutex
	answered uint64
	at       time.Time
}

// look reports whether queries were answered since the last look, or not long before
// it, by the number of those that ever were.
func (p *proof) look(answered uint64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if answered > p.answered {
		p.answered, p.at = answered, now
	}
	return now.Sub(p.at) < steady
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
