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

// FuncReplica runs a Func on goroutines of its own.
type FuncReplica[In, Out any] struct {
	replica *Replica[In, Out]
	work    chan *Batch[In, Out]
	cancel  context.CancelCauseFunc
	running sync.WaitGroup
	stop    sync.Once
}

// ErrStopped is the cause of the context's end in a Func whose replica was
// stopped without waiting for it.
var ErrStopped = errors.New("replica stopped")

// AttachFunc attaches a replica that computes up to slots batches at a time
// with fn. Stop it with [FuncReplica.Stop].
func (b *Batcher[In, Out]) AttachFunc(slots int, fn Func[In, Out]) *FuncReplica[In, Out] {
	slots = max(1, slots)
	ctx, cancel := context.WithCancelCause(context.Background())
	f := &FuncReplica[In, Out]{work: make(chan *Batch[In, Out], slots), cancel: cancel}
	contexts := [...]context.Context{API: withOrigin(ctx, API), Web: withOrigin(ctx, Web)}
	for range slots {
		f.running.Go(func() {
			for batch := range f.work {
				batch.Finish(protect(contexts[batch.Origin], fn, batch.Inputs()))
			}
		})
	}
	// The channel has room for every slot, so that handing over never blocks.
	f.replica = b.Attach(slots, func(batch *Batch[In, Out]) { f.work <- batch })
	return f
}

// Stop detaches the replica, waits for the batches it has, and returns when
// its goroutines have ended. If ctx ends first, the Func's context ends and
// Stop returns the cause without waiting longer.
func (f *FuncReplica[In, Out]) Stop(ctx context.Context) error {
	idle := f.replica.Detach()
	select {
	case <-idle:
		f.stop.Do(func() { close(f.work) })
		f.running.Wait()
		f.cancel(ErrStopped)
		return nil
	case <-ctx.Done():
		f.cancel(ErrStopped)
		go func() { // ends with the Func, which now has been told to
			<-idle
			f.stop.Do(func() { close(f.work) })
		}()
		return context.Cause(ctx)
	}
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
