package serving

import (
	"context"
	"fmt"
	"sync"

	"github.com/shoalserve/shoal/batch"
)

// CallPool is a backend whose model takes calls as they are, such as a Python
// worker.
type CallPool struct {
	*Pool[*Call, Response]
	writing *sync.WaitGroup // the goroutines that write large answers
}

// NewCallPool is [NewPool] for such a model.
func NewCallPool(ctx context.Context, name string, model Model[*Call, Response], config Config, deps Deps) (CallPool, error) {
	model.WarmUp, model.twice = rehearsals, callsTwice{}
	p, err := NewPool(ctx, name, model, config, deps)
	return CallPool{p, new(sync.WaitGroup)}, err
}

// Roll is [Pool.Roll].
func (p CallPool) Roll(ctx context.Context, model Model[*Call, Response], config Config, closed func()) error {
	model.WarmUp = rehearsals
	return p.Pool.Roll(ctx, model, config, closed)
}

// Close implements [Backend].
func (p CallPool) Close(ctx context.Context) error {
	err := p.Pool.Close(ctx)
	p.writing.Wait() // no batch is completed any more, so there will be no others
	return err
}

// Prompt reports that Submit runs no code of the model's.
func (p CallPool) Prompt() bool { return true }

// Submit implements [Backend].
func (p CallPool) Submit(c *Call) error {
	if err := decode(*p.newest.Load(), p.Name(), c); err != nil {
		return err
	}
	c.writing = p.writing
	q := &c.query
	q.Context, q.In, q.Origin, q.Done = c.Context, c, c.Origin, answered
	q.Caller, q.Priority, q.Deadline = c.Caller, c.Priority, c.deadline(p.timeout())
	err := p.SubmitQuery(q)
	if err != nil {
		c.releaseRow()
	}
	return err
}

// Withdraw implements [Backend].
func (p CallPool) Withdraw(c *Call) bool {
	withdrawn := p.WithdrawQuery(&c.query)
	if withdrawn {
		c.releaseRow()
		c.left(p.timeout())
	}
	return withdrawn
}

func answered(q *batch.Query[*Call, Response]) {
	c := q.In
	c.Response, c.Err, c.Trip = q.Out, q.Err, q.Trip
	c.releaseRow()
	if c.Err != nil || c.Response.Item.IsZero() {
		c.finish()
		return
	}
	c.answerItem()
}

// Codec brings calls to a typed model and its answers back.
type Codec[In, Out any] struct {
	// Decode reads the model's input from a call; its error is the caller's fault.
	Decode func(*Call) (In, error)
	// Encode writes the model's output as the answer to the call.
	Encode func(*Call, Out) (Response, error)
}

// answer is what came of a call, whose query may have failed.
func (c Codec[In, Out]) answer(call *Call, out Out, failure error) (Response, error) {
	if failure != nil {
		return Response{}, failure
	}
	return guard(func() (Response, error) { return c.Encode(call, out) })
}

// TypedPool is a backend whose model takes values of a Go type. Handles of that
// type reach its [Pool] directly; calls are decoded.
type TypedPool[In, Out any] struct {
	*Pool[In, Out]
	codec Codec[In, Out]
	key   func(In) string // the model's Key
}

// NewTypedPool is [NewPool] with a codec.
func NewTypedPool[In, Out any](ctx context.Context, name string, model Model[In, Out], codec Codec[In, Out], config Config, deps Deps) (*TypedPool[In, Out], error) {
	model.twice = typedTwice[In, Out]{name, codec}
	p, err := NewPool(ctx, name, model, config, deps)
	if err != nil {
		return nil, err
	}
	return &TypedPool[In, Out]{p, codec, model.Key}, nil
}

// typedCall is a call and the typed query it was decoded to.
type typedCall[In, Out any] struct {
	query batch.Query[In, Out]
	call  *Call
	pool  *TypedPool[In, Out]
}

// Submit implements [Backend].
func (p *TypedPool[In, Out]) Submit(c *Call) error {
	if err := c.Request.CheckBody(); err != nil {
		return err
	}
	in, err := guard(func() (In, error) { return p.codec.Decode(c) })
	if err != nil {
		return err
	}
	t := &typedCall[In, Out]{call: c, pool: p}
	t.query = batch.Query[In, Out]{
		Context: c.Context, In: in, Origin: c.Origin, Done: t.answered,
		Caller: c.Caller, Priority: c.Priority, Deadline: c.deadline(p.timeout()), Bytes: c.Size(),
	}
	c.typed = t
	return p.SubmitQuery(&t.query)
}

// Withdraw implements [Backend].
func (p *TypedPool[In, Out]) Withdraw(c *Call) bool {
	withdrawn := p.WithdrawQuery(&c.typed.(*typedCall[In, Out]).query)
	if withdrawn {
		c.left(p.timeout())
	}
	return withdrawn
}

func (t *typedCall[In, Out]) answered(q *batch.Query[In, Out]) {
	c := t.call
	c.Trip = q.Trip
	c.Response, c.Err = t.pool.codec.answer(c, q.Out, ModelFailure(t.pool.Name(), q.Err, q.Trip))
	c.finish()
}

// guard calls a codec and turns its panic into an error of this query.
func guard[T any](f func() (T, error)) (v T, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("codec panicked: %v", p)
		}
	}()
	return f()
}
