package batch

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// ErrAbandoned is the cause of the context's end in a Func whose callers have
// all left.
var ErrAbandoned = fmt.Errorf("every caller of the batch has left: %w", context.Canceled)

// callContext is the context of one call of a Func. Few models ask when it ends;
// for those that do not it is nothing but the replica's context, and is used again
// for the next call.
type callContext struct {
	mu      sync.Mutex
	batch   uint64 // its ID; 0 when the call has ended
	replica context.Context
	cause   error           // why it ended before the call, if it did
	own     context.Context // ends with the call; nil until the model asks
	cancel  context.CancelCauseFunc
}

var _ context.Context = (*callContext)(nil)

// begin makes it the context of a call.
func (c *callContext) begin(replica context.Context, batch uint64) {
	c.mu.Lock()
	c.batch, c.replica, c.cause = batch, replica, nil
	c.mu.Unlock()
}

// stop ends it if it is still that of the given batch.
func (c *callContext) stop(batch uint64, cause error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.batch != batch {
		return
	}
	c.cause = cause
	if c.own != nil {
		c.cancel(c.cause)
	}
}

// end ends it with its call. It reports whether it can be used again: not if
// the model has asked, and may do so again.
func (c *callContext) end() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.batch = 0
	if c.own == nil {
		return true
	}
	c.cancel(nil)
	return false
}

// ask returns the context that ends with the call.
func (c *callContext) ask() context.Context {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.own == nil {
		c.own, c.cancel = context.WithCancelCause(c.replica)
		if c.cause != nil {
			c.cancel(c.cause)
		}
	}
	return c.own
}

// Deadline implements context.Context.
func (c *callContext) Deadline() (time.Time, bool) { return time.Time{}, false }

// Done implements context.Context.
func (c *callContext) Done() <-chan struct{} { return c.ask().Done() }

// Err implements context.Context.
func (c *callContext) Err() error { return c.ask().Err() }

// Value implements context.Context.
func (c *callContext) Value(key any) any {
	if _, ok := key.(originKey); ok {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.replica.Value(key)
	}
	return c.ask().Value(key) // context.Cause asks in this way
}
