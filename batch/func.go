package batch

import (
	"context"
	"errors"
	"runtime/debug"
	"sync"
)

// Func is a model in this process: it gets the inputs of one batch and returns
// as many outputs, in the same order, or an error for all, or [ItemErrors].
// Its context carries the batch's [Origin] and ends when the replica is stopped
// before it is idle.
type Func[In, Out any] func(ctx context.Context, in []In) ([]Out, error)

// ErrStopped is the cause of the context's end in a Func whose replica was
// stopped without waiting for it.
var ErrStopped = errors.New("replica stopped")

// Runner computes batches with a Func, on goroutines of its own.
type Runner[In, Out any] struct {
	fn       Func[In, Out]
	contexts [2]context.Context // by Origin
	cancel   context.CancelCauseFunc
	running  sync.WaitGroup
	done     chan struct{} // closed when the goroutines have ended

	mu     sync.Mutex // guards sends to and the closing of work
	closed bool
	work   chan *Batch[In, Out]
}

// NewRunner returns a Runner that computes up to slots batches at a time. Its
// Run is to be given to [Batcher.Attach] with as many slots.
func NewRunner[In, Out any](slots int, fn Func[In, Out]) *Runner[In, Out] {
	slots = max(1, slots)
	ctx, cancel := context.WithCancelCause(context.Background())
	// The channel has room for every slot, so that handing over never blocks.
	r := &Runner[In, Out]{fn: fn, cancel: cancel, done: make(chan struct{}), work: make(chan *Batch[In, Out], slots)}
	r.contexts = [...]context.Context{API: withOrigin(ctx, API), Web: withOrigin(ctx, Web)}
	for range slots {
		r.running.Go(r.compute)
	}
	go func() {
		r.running.Wait()
		cancel(ErrStopped)
		close(r.done)
	}()
	return r
}

// compute is one of the Runner's goroutines. If fn ends the goroutine, as the
// FailNow of a test does, its batch fails and another goroutine goes on.
func (r *Runner[In, Out]) compute() {
	var computing *Batch[In, Out]
	defer func() {
		if computing != nil {
			r.running.Go(r.compute)
			computing.Finish(nil, &PanicError{Where: "model", Value: "runtime.Goexit was called", Stack: debug.Stack()})
		}
	}()
	for b := range r.work {
		computing = b
		out, err := protect(r.contexts[b.Origin], r.fn, b.Inputs())
		computing = nil
		b.Finish(out, err)
		b.reuse()
	}
}

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

// Stop waits for the batches that were handed over. If ctx ends first, the
// Func's context ends and Stop returns the cause without waiting longer.
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
	return &FuncReplica[In, Out]{replica: b.Attach(slots, runner.Run), runner: runner}
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

// protect calls a model and turns a panic into an error.
func protect[In, Out any](ctx context.Context, fn Func[In, Out], in []In) (out []Out, err error) {
	where := "model"
	defer recovered(&where, &err)
	return fn(ctx, in)
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
