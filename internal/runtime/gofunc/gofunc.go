// Package gofunc runs Go functions in the process as a backend's replicas.
package gofunc

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/shoalserve/shoal/batch"
	"github.com/shoalserve/shoal/internal/serving"
)

// Runtime starts replicas of a model that is a Go function.
type Runtime[In, Out any] struct {
	// New makes one replica's function, and what is to be closed after it; it
	// may take its time to load a model.
	New func(ctx context.Context) (fn batch.Func[In, Out], close func() error, err error)
	// Batched tells whether the function takes more than one query a call.
	Batched bool
}

// Start implements serving.Runtime.
func (r Runtime[In, Out]) Start(ctx context.Context, spec serving.ReplicaSpec) (serving.Instance[In, Out], error) {
	fn, closer, err := r.load(ctx)
	if err != nil {
		failure := &serving.LoadError{Backend: spec.Backend, Type: fmt.Sprintf("%T", err), Message: err.Error(), Err: err}
		if p, ok := errors.AsType[*batch.PanicError](err); ok {
			failure.Type, failure.Traceback = "panic", string(p.Stack)
		}
		return nil, failure
	}
	runner := batch.NewRunner(spec.Config.MaxConcurrentBatches, fn)
	return &instance[In, Out]{
		Runner: runner, close: sync.OnceValue(protected(closer)), batched: r.Batched,
		grace: cmp.Or(time.Duration(spec.Config.BatchTimeout), lastBatches),
	}, nil
}

func (r Runtime[In, Out]) load(ctx context.Context) (fn batch.Func[In, Out], closer func() error, err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &batch.PanicError{Where: "init", Value: v, Stack: debug.Stack()}
		}
	}()
	return r.New(ctx)
}

// protected makes an error of a panic in what is closed after a function.
func protected(closer func() error) func() error {
	return func() (err error) {
		defer func() {
			if v := recover(); v != nil {
				err = &batch.PanicError{Where: "close", Value: v, Stack: debug.Stack()}
			}
		}()
		if closer == nil {
			return nil
		}
		return closer()
	}
}

// instance is one replica. It shares the process, so it never ends by itself.
type instance[In, Out any] struct {
	*batch.Runner[In, Out]
	close       func() error
	batched     bool
	interrupted atomic.Bool
	grace       time.Duration // what the other batches have once it was interrupted
}

func (i *instance[In, Out]) Batched() bool { return i.batched }

func (i *instance[In, Out]) PID() int { return os.Getpid() }

func (i *instance[In, Out]) Exited() <-chan struct{} { return nil }

func (i *instance[In, Out]) Err() error { return nil }

// Interrupt implements serving.Interrupter.
func (i *instance[In, Out]) Interrupt(id uint64, err error) {
	i.interrupted.Store(true)
	i.Runner.Interrupt(id, err)
}

// Gone implements serving.Interrupter.
func (i *instance[In, Out]) Gone() <-chan struct{} { return i.Done() }

// Stop implements serving.Instance. A function that does not return in time is
// closed when it does, if ever: until then it uses what Close would take away.
func (i *instance[In, Out]) Stop(ctx context.Context) error {
	if i.interrupted.Load() {
		go i.leave() // ends with the function
		return nil
	}
	if err := i.Runner.Stop(ctx); err != nil {
		go i.leave() // likewise
		return fmt.Errorf("stopping a replica: %w", err)
	}
	if err := i.close(); err != nil {
		return fmt.Errorf("closing a replica: %w", err)
	}
	return nil
}

// lastBatches is what time the other batches of an interrupted replica have where no
// batch_timeout was set when it started. With one each of them is late itself after that
// time, since it began before.
const lastBatches = time.Minute

// leave closes the replica once its functions have returned, which may be never.
// Batches that take too long are given to other replicas.
func (i *instance[In, Out]) leave() {
	ctx, cancel := context.WithTimeout(context.Background(), i.grace)
	defer cancel()
	if i.Runner.Stop(ctx) != nil {
		<-i.Done()
	}
	_ = i.close() // nobody waits for it any more
}
