// Package gofunc runs Go functions in the process as a backend's replicas.
package gofunc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"sync"

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
	return &instance[In, Out]{Runner: runner, close: sync.OnceValue(protected(closer)), batched: r.Batched}, nil
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
	close   func() error
	batched bool
}

func (i *instance[In, Out]) Batched() bool { return i.batched }

func (i *instance[In, Out]) PID() int { return os.Getpid() }

func (i *instance[In, Out]) Exited() <-chan struct{} { return nil }

func (i *instance[In, Out]) Err() error { return nil }

// Stop implements serving.Instance. A function that does not return in time is
// closed when it does, if ever: until then it uses what Close would take away.
func (i *instance[In, Out]) Stop(ctx context.Context) error {
	if err := i.Runner.Stop(ctx); err != nil {
		go func() { // ends with the function
			_ = i.Runner.Stop(context.Background()) // which never fails
			_ = i.close()                           // nobody waits for it any more
		}()
		return fmt.Errorf("stopping a replica: %w", err)
	}
	if err := i.close(); err != nil {
		return fmt.Errorf("closing a replica: %w", err)
	}
	return nil
}
