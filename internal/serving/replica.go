package serving

import (
	"context"
	"fmt"
	"math/rand/v2"
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
	changed  chan struct{} // has room for one: the config changed

	// Of supervise alone.
	pause    *backoff.ExponentialBackOff
	next     time.Duration // the pause before the next start
	failures int           // since an instance was last of use
	pardons  uint64        // of the pool, when they were last looked at
	slots    int           // of the instance

	mu       sync.Mutex
	now      ReplicaStatus
	instance Instance[In, Out] // that works; nil before the first
	attached *batch.Replica[In, Out]
	runs     *revision[In, Out] // of the instance, or of the one that is being started
	jitter   float64            // of this instance's recycling, from 0 to 1

	blocked bool            // it cannot work before its next start, which is not soon
	stopCtx context.Context // how long a stop may take; set before askStop
	stopErr error
}

func newReplica[In, Out any](p *Pool[In, Out], index int) *replica[In, Out] {
	r := &replica[In, Out]{
		pool: p, index: index, done: make(chan struct{}), changed: make(chan struct{}, 1),
		pause: newPause(), runs: p.revision(),
	}
	r.slots = r.runs.config.MaxConcurrentBatches
	r.now = ReplicaStatus{Index: index, State: StateStarting}
	r.stopping, r.askStop = context.WithCancel(context.Background())
	return r
}

// attach puts an instance to work.
func (r *replica[In, Out]) attach(instance Instance[In, Out]) *batch.Replica[In, Out] {
	r.pool.newest.Store(&instance)
	r.set(StateReady, instance.PID())
	r.block(nil)
	opts := batch.ReplicaOptions[In, Out]{Slots: r.slots, Run: instance.Run}
	if t, ok := instance.(TakesAhead[In, Out]); ok {
		opts.Ahead, opts.Recall = 1, t.Recall
	}
	if c, ok := instance.(Cancels); ok {
		opts.Cancel = c.Cancel
	}
	attached := r.pool.batcher.AttachReplica(opts)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.instance, r.attached, r.jitter = instance, attached, rand.Float64()
	return attached
}

// supervise watches over an instance and each that follows it; with nil, it
// starts the first.
func (r *replica[In, Out]) supervise(instance Instance[In, Out], attached *batch.Replica[In, Out]) {
	defer close(r.done)
	for instance == nil || r.watch(instance, attached) {
		if instance = r.restart(); instance == nil {
			r.set(StateStopped, 0)
			return
		}
		attached = r.attach(instance)
	}
}

// watch lets an instance work until it is of no more use (true) or the replica
// is to stop.
func (r *replica[In, Out]) watch(instance Instance[In, Out], attached *batch.Replica[In, Out]) (again bool) {
	started := time.Now()
	dog := r.watchdog(instance, attached)
	defer dog.timer.Stop()
	for {
		select {
		case <-instance.Exited():
			// First no more batches, then an end for those it had: the other way
			// round they would be answered by the dead instance's next batch.
			attached.Detach()
			r.fail(ReasonDied, instance.Err(), diagnosis(instance))
			r.end(instance)
			r.outlived(instance.Err(), started, attached)
			return true
		case <-dog.timer.C:
		case <-r.changed:
		case <-r.stopping.Done():
			r.drain(instance, attached, dog)
			return false
		}
		if s := dog.look(); s != nil {
			err := r.giveUp(instance, attached, s)
			r.end(instance)
			r.outlived(err, started, attached)
			return true
		}
	}
}

// drain lets an instance finish its batches, as long as the stop may take, and stops it.
func (r *replica[In, Out]) drain(instance Instance[In, Out], attached *batch.Replica[In, Out], dog *watchdog[In, Out]) {
	r.set(StateDraining, instance.PID())
	ctx := r.stopContext()
	for detached, finished := attached.Detach(), false; !finished; {
		select {
		case <-detached:
			finished = true
		case <-instance.Exited():
			finished = true
		case <-ctx.Done():
			finished = true
		case <-dog.timer.C:
			if s := dog.look(); s != nil {
				_ = r.giveUp(instance, attached, s) // which has told it
				finished = true
			}
		}
	}
	err := instance.Stop(ctx)
	r.pool.leave(instance)
	r.mu.Lock()
	r.stopErr = err
	r.mu.Unlock()
	r.set(StateStopped, 0)
}

// giveUp takes a stuck instance off the batcher, makes it end, and returns why.
func (r *replica[In, Out]) giveUp(instance Instance[In, Out], attached *batch.Replica[In, Out], s *stuck) error {
	reason := ReasonHeartbeat
	if s.id != 0 {
		reason = ReasonBatchTimeout
	}
	err := Errorf(s.err.Code, "backend %q: replica %d (pid %d): %s", r.pool.name, r.index, instance.PID(), s.err.Message)
	attached.Detach() // or the batch's failure would bring it another
	r.fail(reason, err, "")
	if i, ok := instance.(Interrupter); ok {
		i.Interrupt(s.id, err)
	}
	return err
}

// killGrace is how long an instance that died or was given up may take to end.
const killGrace = 10 * time.Second

// end stops an instance that is of no more use; fail said why.
func (r *replica[In, Out]) end(instance Instance[In, Out]) {
	ctx, cancel := context.WithTimeout(context.Background(), killGrace)
	defer cancel()
	_ = instance.Stop(ctx)
	r.pool.leave(instance)
}

// restart starts a new instance, again and again until one is ready; nil when
// the replica is to stop.
func (r *replica[In, Out]) restart() Instance[In, Out] {
	for {
		select {
		case <-time.After(r.next):
		case <-r.stopping.Done():
			return nil
		}
		if n := r.pool.stuck.Load(); n >= maxStuck {
			r.next = r.pause.NextBackOff()
			r.tooManyStuck(n)
			continue
		}
		if r.failures < crashLoop { // else it stays what it is until it is ready
			r.set(StateStarting, 0)
		}
		now := r.begin()
		spec := ReplicaSpec{Backend: r.pool.name, Index: r.index, Config: now.config}
		instance, err := r.pool.launch(r.stopping, now.version, spec)
		if err == nil && now.outdated(r.pool.revision()) {
			r.end(instance)
			continue
		}
		if err == nil {
			r.slots = spec.Config.MaxConcurrentBatches // the pool's may have changed meanwhile
			r.pool.log.Info("replica restarted", "replica", r.index, "pid", instance.PID())
			return instance
		}
		if r.stopping.Err() != nil {
			return nil
		}
		r.fail(ReasonStart, err, traceback(err))
		r.reckon(err, false)
	}
}

// begin notes what is about to be started. Who makes another revision the pool's looks for
// replicas with this one afterwards, and the replica looks at the pool's once more when it has
// started: one of them sees the other.
func (r *replica[In, Out]) begin() *revision[In, Out] {
	now := r.pool.revision()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.runs = now
	return now
}

// outdated reports whether the replica runs something else than the revision, or is about to.
func (r *replica[In, Out]) outdated(now *revision[In, Out]) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.runs.outdated(now)
}

// tooManyStuck notes that the replica is not started, because of what n others of the
// backend have left behind.
func (r *replica[In, Out]) tooManyStuck(n int64) {
	why := fmt.Sprintf("%d computations that were given up have not ended, and no replica is started before one of them does: "+
		"make the model return when its context ends, or restart the server", n)
	r.set(StateFailed, 0)
	r.note(why)
	r.block(&Error{Code: Unavailable, RetryAfter: r.next, Message: fmt.Sprintf("backend %q: %s", r.pool.name, why)})
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

// note records what keeps a replica from working.
func (r *replica[In, Out]) note(why string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.now.Error = why
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
