package batch

import "context"

// call is a query with a place to wait for its answer. Calls are reused.
type call[In, Out any] struct {
	query Query[In, Out]
	done  chan struct{}
}

func newCall[In, Out any]() *call[In, Out] {
	c := &call[In, Out]{done: make(chan struct{}, 1)}
	c.query.Done = func(*Query[In, Out]) { c.done <- struct{}{} }
	return c
}

// Do submits one API query and waits for its answer. When ctx ends first, the
// query leaves the queue, or, if it is being computed already, its answer is
// dropped. Errors are those of [Batcher.Submit] and of the model.
func (b *Batcher[In, Out]) Do(ctx context.Context, in In) (Out, error) {
	out, _, err := b.DoTrip(ctx, in)
	return out, err
}

// DoTrip is Do that also tells how the query fared.
func (b *Batcher[In, Out]) DoTrip(ctx context.Context, in In) (Out, Trip, error) {
	c := b.calls.Get().(*call[In, Out])
	c.query.Context, c.query.In, c.query.Origin = ctx, in, API
	if err := b.Submit(&c.query); err != nil {
		return b.forget(c, err)
	}
	if ended := ctx.Done(); ended == nil {
		<-c.done // costs less than a select
	} else {
		select {
		case <-c.done:
		case <-ended:
			if b.Withdraw(&c.query) {
				return b.forget(c, left(b.opts.Name, &c.query))
			}
			// The batch has left: its replica still writes to c, so c is not reused.
			var none Out
			return none, Trip{}, context.Cause(ctx)
		}
	}
	out, trip, err := c.query.Out, c.query.Trip, c.query.Err
	b.recycle(c)
	return out, trip, err
}

func (b *Batcher[In, Out]) forget(c *call[In, Out], err error) (Out, Trip, error) {
	b.recycle(c)
	var none Out
	return none, Trip{}, err
}

func (b *Batcher[In, Out]) recycle(c *call[In, Out]) {
	var noIn In
	var noOut Out
	c.query.Context, c.query.In, c.query.Out, c.query.Err, c.query.split = nil, noIn, noOut, nil, nil
	b.calls.Put(c)
}
