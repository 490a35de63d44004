package serving

import (
	"context"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/shoalserve/shoal/batch"
)

// replica keeps one instance of a backend running: it starts another when one
// dies, until it is stopped. One goroutine, supervise, moves its state.
type replica[In, Out any] struct {
	pool  *Pool[In, Out]
	index int

	stopping context.Context // ends when stop was called
	askStop  context.CancelFunc
	done     chan struct{} // closed when supervise returns

	mu      sync.Mutex
	now     ReplicaStatus
	stopCtx context.Context // how long a stop may take; set before askStop
	stopErr error
}

func newReplica[In, Out any](p *Pool[In, Out], index int) *replica[In, Out] {
	r := &replica[In, Out]{pool: p, index: index, done: make(chan struct{})}
	r.now = ReplicaStatus{Index: index, State: StateStarting}
	r.stopping, r.askStop = context.WithCancel(context.Background())
	return r
}

// attach puts an instance to work.
func (r *replica[In, Out]) attach(instance Instance[In, Out]) *batch.Replica[In, Out] {
	r.pool.newest.Store(&instance)
	r.set(StateReady, instance.PID())
	slots := r.pool.Config().MaxConcurrentBatches
	if t, ok := instance.(TakesAhead[In, Out]); ok {
		return r.pool.batcher.AttachAhead(slots, 1, instance.Run, t.Recall)
	}
	return r.pool.batcher.Attach(slots, instance.Run)
}

// supervise watches over an instance and each that follows it.
func (r *replica[In, Out]) supervise(instance Instance[In, Out], attached *batch.Replica[In, Out]) {
	defer close(r.done)
	pause := newPause()
	for {
		started := time.Now()
		if !r.watch(instance, attached) {
			return
		}
		if time.Since(started) > steady {
			pause.Reset()
		}
		if instance = r.restart(pause); instance == nil {
			r.set(StateStopped, 0)
			return
		}
		attached = r.attach(instance)
	}
}

// watch lets an instance work until it dies (true) or the replica is to stop.
func (r *replica[In, Out]) watch(instance Instance[In, Out], attached *batch.Replica[In, Out]) (died bool) {
	select {
	case <-instance.Exited():
		// First no more batches, then an end for those it had: the other way
		// round they would be answered by the dead instance's next batch.
		attached.Detach()
		r.fail(instance.Err())
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = instance.Stop(ctx) // it is dead already; fail said why
		return true
	case <-r.stopping.Done():
	}
	r.set(StateDraining, instance.PID())
	ctx := r.stopContext()
	select {
	case <-attached.Detach():
	case <-instance.Exited():
	case <-ctx.Done():
	}
	err := instance.Stop(ctx)
	r.mu.Lock()
	r.stopErr = err
	r.mu.Unlock()
	r.set(StateStopped, 0)
	return false
}

// steady is how long an instance must live for its death to count as a new
// trouble and not as the same one again.
const steady = 10 * time.Second

// newPause returns the growing pauses between restarts: 100 ms to 10 s.
func newPause() *backoff.ExponentialBackOff {
	b := backoff.NewExponentialBackOff()
	b.InitialInterval, b.MaxInterval = 100*time.Millisecond, 10*time.Second
	return b
}

// restart starts a new instance, again and again until one is ready; nil when
// the replica is to stop.
func (r *replica[In, Out]) restart(pause backoff.BackOff) Instance[In, Out] {
	for {
		select {
		case <-time.After(pause.NextBackOff()):
		case <-r.stopping.Done():
			return nil
		}
		r.set(StateStarting, 0)
		spec := ReplicaSpec{Backend: r.pool.name, Index: r.index, Config: r.pool.Config()}
		instance, err := r.pool.runtime.Start(r.stopping, spec)
		if err == nil {
			r.pool.log.Info("replica restarted", "replica", r.index, "pid", instance.PID())
			return instance
		}
		if r.stopping.Err() != nil {
			return nil
		}
		r.fail(err)
	}
}

// fail records why an instance ended or could not start.
func (r *replica[In, Out]) fail(err error) {
	r.mu.Lock()
	r.now.State, r.now.PID, r.now.Error = StateFailed, 0, err.Error()
	r.now.Restarts++
	restarts := r.now.Restarts
	r.mu.Unlock()
	r.pool.restarts.Add(1)
	r.pool.log.Error("replica failed and will be restarted", "replica", r.index, "restarts", restarts, "error", err)
}

// stop ends the replica: its batches finish first, until ctx ends.
func (r *replica[In, Out]) stop(ctx context.Context) error {
	r.mu.Lock()
	r.stopCtx = ctx
	r.mu.Unlock()
	r.askStop()
	<-r.done
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.stopErr
}

func (r *replica[In, Out]) stopContext() context.Context {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.stopCtx
}

func (r *replica[In, Out]) set(state State, pid int) {
	r.mu.Lock()
	r.now.State, r.now.PID = state, pid
	if state == StateReady {
		r.now.Error = ""
	}
	r.mu.Unlock()
}

// rank orders replicas by whether they work: those that do are the lowest.
func (r *replica[In, Out]) rank() int {
	switch r.status().State {
	case StateReady:
		return 0
	case StateStarting:
		return 1
	default:
		return 2
	}
}

func (r *replica[In, Out]) status() ReplicaStatus {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.now
}
