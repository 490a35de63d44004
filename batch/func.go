package batch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"sync/atomic"
)

// Func is a model in this process: it gets the inputs of one batch and returns
// as many outputs, in the same order, or an error for all, or [ItemErrors].
// Its context carries the batch's [Origin] and ends when every caller of the batch
// has left (its cause is [ErrAbandoned]), when the batch is interrupted, when the
// replica is stopped before it is idle ([ErrStopped]), and with the call.
type Func[In, Out any] func(ctx context.Context, in []In) ([]Out, error)

// ErrStopped is the cause of the context's end in a Func whose replica was
// stopped without waiting for it.
var ErrStopped = errors.New("replica stopped")

// Runner computes batches with a Func, on goroutines of its own.
type Runner[In, Out any] struct {
	fn       Func[In, Out]
	contexts [origins]context.Context
	slots    []slot[In, Out]
	cancel   context.CancelCauseFunc
	running  sync.WaitGroup
	done     chan struct{} // closed when the goroutines have ended

	mu      sync.Mutex // guards sends to and the closing of work, and verdict
	closed  bool
	work    chan *Batch[In, Out]
	verdict error // of the first Interrupt

	gaveUp atomic.Bool // Stop had no more time: nothing is computed any more
}

// NewRunner returns a Runner that computes up to slots batches at a time. Its
// Run is to be given to [Batcher.AttachReplica] with as many slots.
func NewRunner[In, Out any](slots int, fn Func[In, Out]) *Runner[In, Out] {
	slots = max(1, slots)
	ctx, cancel := context.WithCancelCause(context.Background())
	// The channel has room for every slot, so that handing over never blocks.
	r := &Runner[In, Out]{
		fn: fn, slots: make([]slot[In, Out], slots), cancel: cancel,
		done: make(chan struct{}), work: make(chan *Batch[In, Out], slots),
	}
	r.contexts = [...]context.Context{API: withOrigin(ctx, API), Web: withOrigin(ctx, Web)}
	for i := range r.slots {
		r.running.Go(func() { r.compute(&r.slots[i]) })
	}
	go func() {
		r.running.Wait()
		cancel(ErrStopped)
		close(r.done)
	}()
	return r
}

// slot is the place of one batch that a Runner computes.
type slot[In, Out any] struct {
	call atomic.Pointer[callContext] // of the batch, or used again for the next
	// computing is the ID of the batch that fn has, 0 for none. Whoever sets it
	// to 0 has the batch: the goroutine when fn returns, or take before.
	computing atomic.Uint64
	batch     *Batch[In, Out] // that of computing
}

func (s *slot[In, Out]) newCall() *callContext {
	call := new(callContext)
	s.call.Store(call)
	return call
}

// begin books the batch that fn is about to get.
func (s *slot[In, Out]) begin(b *Batch[In, Out]) {
	s.batch = b
	s.computing.Store(b.ID)
}

// compute is one of the Runner's goroutines. If fn ends the goroutine, as the
// FailNow of a test does, its batch fails and another goroutine goes on.
func (r *Runner[In, Out]) compute(s *slot[In, Out]) {
	returned := true
	call := s.newCall()
	defer func() {
		if returned {
			return
		}
		call.end()
		if b := s.batch; s.computing.CompareAndSwap(b.ID, 0) {
			r.running.Go(func() { r.compute(s) })
			b.Finish(nil, &PanicError{Where: "model", Value: "runtime.Goexit was called", Stack: debug.Stack()})
		}
	}()
	for b := range r.work {
		id, in := b.ID, b.Inputs()
		call.begin(r.contexts[b.Origin], id)
		s.begin(b) // from here on the batch may be taken away
		if r.gaveUp.Load() {
			if !call.end() {
				call = s.newCall()
			}
			if !r.lose(s) {
				return // Stop has it, and looks at the slot
			}
			continue
		}
		returned = false
		var out []Out
		err := error(ErrAbandoned)
		if !b.Abandoned() { // else Cancel may have come before begin
			out, err = protect(call, r.fn, in)
		}
		returned = true
		if !call.end() {
			call = s.newCall()
		}
		if !s.computing.CompareAndSwap(id, 0) {
			return // the batch was taken away: it is not ours to look at any more
		}
		b.Finish(out, err)
		b.reuse()
	}
}

// take takes the batch with the ID away from fn; nil if it does not have it.
func (s *slot[In, Out]) take(id uint64) *Batch[In, Out] {
	if id == 0 || !s.computing.CompareAndSwap(id, 0) {
		return nil
	}
	return s.batch
}

// Interrupt fails the batch of that ID with err, now, and ends its context,
// whose cause is err; it reports false if the batch is not being computed. What
// the Func returns for it is dropped. Its goroutine ends with the Func, if that ever
// returns, and computes nothing more, so a Runner that was interrupted should
// be detached before, and replaced.
func (r *Runner[In, Out]) Interrupt(id uint64, err error) bool {
	r.mu.Lock()
	r.verdict = cmp.Or(r.verdict, err)
	r.mu.Unlock()
	for i := range r.slots {
		if b := r.slots[i].take(id); b != nil {
			r.slots[i].call.Load().stop(id, err)
			b.Interrupted(err)
			return true
		}
	}
	return false
}

// giveUp gives up the batches that are being computed, and those that would be next.
func (r *Runner[In, Out]) giveUp() {
	r.gaveUp.Store(true)
	for i := range r.slots {
		r.lose(&r.slots[i])
	}
}

// lose gives up the batch that fn has in a slot, and reports false if it has none. If
// the Runner was interrupted that batch had no part in it, and is computed again by another.
func (r *Runner[In, Out]) lose(s *slot[In, Out]) bool {
	b := s.take(s.computing.Load())
	if b == nil {
		return false
	}
	r.mu.Lock()
	err := ErrStopped
	if r.verdict != nil {
		err = fmt.Errorf("the replica was replaced while it computed this: %w", r.verdict)
	}
	r.mu.Unlock()
	b.Lost(err)
	return true
}

// Done is closed when the Runner was stopped and its last Func has returned.
func (r *Runner[In, Out]) Done() <-chan struct{} { return r.done }

// Run hands over a batch. After Stop its queries fail with ErrStopped.
func (r *Runner[In, Out]) Run(b *Batch[In, Out]) {
	r.mu.Lock()
	stopped := r.closed
	if !stopped {
		r.work <- b
	}
	r.mu.Unlock()
	if stopped {
		b.Finish(nil, ErrStopped)
	}
}

// Cancel ends the context of the call that computes the batch with the ID, if
// one does. It is to be given to [Batcher.AttachReplica].
func (r *Runner[In, Out]) Cancel(id uint64) {
	for i := range r.slots {
		if call := r.slots[i].call.Load(); call != nil {
			call.stop(id, ErrAbandoned)
		}
	}
}

// Stop waits for the batches that were handed over. If ctx ends first, the
// batches that the Func computes end as [Batch.Lost], its context ends, and Stop returns
// the cause without waiting longer.
func (r *Runner[In, Out]) Stop(ctx context.Context) error {
	r.mu.Lock()
	if !r.closed {
		r.closed = true
		close(r.work)
	}
	r.mu.Unlock()
	select {
	case <-r.done:
		return nil
	case <-ctx.Done():
		r.giveUp() // before a Func that sees its context end fails its batch
		r.cancel(ErrStopped)
		return context.Cause(ctx)
	}
}

// FuncReplica is a Func that is attached to a Batcher.
type FuncReplica[In, Out any] struct {
	replica *Replica[In, Out]
	runner  *Runner[In, Out]
}

// AttachFunc attaches a replica that computes up to slots batches at a time
// with fn. Stop it with [FuncReplica.Stop].
func (b *Batcher[In, Out]) AttachFunc(slots int, fn Func[In, Out]) *FuncReplica[In, Out] {
	runner := NewRunner(slots, fn)
	replica := b.AttachReplica(ReplicaOptions[In, Out]{Slots: slots, Run: runner.Run, Cancel: runner.Cancel})
	return &FuncReplica[In, Out]{replica: replica, runner: runner}
}

// Stop detaches the replica and waits for the batches it has, as
// [Runner.Stop] does.
func (f *FuncReplica[In, Out]) Stop(ctx context.Context) error {
	select {
	case <-f.replica.Detach():
	case <-ctx.Done():
	}
	return f.runner.Stop(ctx)
}

// protect calls a model and turns a panic into an error, also that of an error which is
// looked into, as many a nil pointer does: others will do so where nothing stands between it
// and the process.
func protect[In, Out any](ctx context.Context, fn Func[In, Out], in []In) (out []Out, err error) {
	where := "model"
	defer recovered(&where, &err)
	if out, err = fn(ctx, in); err != nil {
		lookInto(err)
	}
	return out, err
}

// lookInto does with an error of somebody else's all that is ever done with one.
func lookInto(err error) {
	items, _ := errors.AsType[ItemErrors](err)
	_ = errors.Is(err, ErrStopped)
	_ = err.Error()
	for _, item := range items {
		if item != nil {
			_ = item.Error()
		}
	}
}

// recovered, deferred, turns a panic into a *PanicError.
func recovered(where *string, err *error) {
	if v := recover(); v != nil {
		*err = &PanicError{Where: *where, Value: v, Stack: debug.Stack()}
	}
}

type originKey struct{}

func withOrigin(ctx context.Context, o Origin) context.Context {
	return context.WithValue(ctx, originKey{}, o)
}

// OriginOf returns the origin of the batch that a Func computes, from the
// context it got; API for any other context.
func OriginOf(ctx context.Context) Origin {
	o, _ := ctx.Value(originKey{}).(Origin)
	return o
}
