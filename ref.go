package shoal

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/shoalserve/shoal/batch"
)

// Ref is a reference to an answer that may not be there yet.
type Ref[Out any] struct {
	// Set before answered, and not changed after it.
	out  Out
	err  error
	trip batch.Trip

	answered atomic.Bool
	then     func() // called after the answer is there; may be nil

	mu      sync.Mutex
	waiting *waiter       // those who wait in Get
	done    chan struct{} // made by the first call of Done
}

// waiter is a place to wait for one answer. Waiters are reused, because a
// channel costs more than all else about a Ref.
type waiter struct {
	ready chan struct{} // gets one token when the answer is there
	next  *waiter
}

var waiters = sync.Pool{New: func() any { return &waiter{ready: make(chan struct{}, 1)} }}

// Get waits for the answer, or for the end of ctx. It may be called many times
// and from many goroutines. Once ctx has ended, the model's error is that of ctx, too.
func (r *Ref[Out]) Get(ctx context.Context) (Out, error) {
	if !r.answered.Load() {
		if err := r.wait(ctx); err != nil {
			var none Out
			return none, err
		}
	}
	if r.err != nil {
		return r.out, ended(ctx, r.err, r.trip)
	}
	return r.out, nil
}

// wait returns when the answer is there, or with the cause of ctx's end.
func (r *Ref[Out]) wait(ctx context.Context) error {
	w := waiters.Get().(*waiter)
	defer waiters.Put(w)
	if !r.join(w) {
		return nil
	}
	ended := ctx.Done()
	if ended == nil {
		<-w.ready // costs less than a select
		return nil
	}
	select {
	case <-w.ready:
		return nil
	case <-ended:
	}
	if r.leave(w) {
		return context.Cause(ctx)
	}
	<-w.ready // the answer came at the same moment
	return nil
}

// join lets w be told of the answer, unless it is there.
func (r *Ref[Out]) join(w *waiter) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.answered.Load() {
		return false
	}
	w.next, r.waiting = r.waiting, w
	return true
}

// leave takes w back; false if it is being told of the answer.
func (r *Ref[Out]) leave(w *waiter) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for at := &r.waiting; *at != nil; at = &(*at).next {
		if *at == w {
			*at, w.next = w.next, nil
			return true
		}
	}
	return false
}

// Done is closed when the answer is there.
func (r *Ref[Out]) Done() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.done == nil {
		r.done = make(chan struct{})
		if r.answered.Load() {
			close(r.done)
		}
	}
	return r.done
}

// Trip tells how the query fared: how long it waited and computed, in how large
// a batch, and why that batch left when it did. It is valid once Done is closed.
func (r *Ref[Out]) Trip() Trip {
	return Trip{Queued: r.trip.Queued, Computed: r.trip.Computed, BatchSize: r.trip.BatchSize, Reason: r.trip.Reason.String(), Attempts: r.trip.Attempts}
}

// Trip is the story of an answered query.
type Trip struct {
	Queued    time.Duration // from its arrival until a replica could begin its batch
	Computed  time.Duration // from then until the batch was answered
	BatchSize int           // queries in the batch; 0 if the query never ran
	Reason    string        // why the batch left: free, full, hold, slo, timeout, deadline, key, cost, drain or retry
	Attempts  int           // how often it was computed: more than once if a batch it was in failed as a whole
}

// finish sets the answer. It is called once.
func (r *Ref[Out]) finish(out Out, err error, trip batch.Trip) {
	r.out, r.err, r.trip = out, err, trip
	r.mu.Lock()
	r.answered.Store(true)
	waiting, done := r.waiting, r.done
	r.waiting = nil
	r.mu.Unlock()
	for waiting != nil {
		w := waiting
		waiting, w.next = w.next, nil // before it is told: then it may be used again
		w.ready <- struct{}{}
	}
	if done != nil {
		close(done)
	}
	if r.then != nil {
		r.then()
	}
}
