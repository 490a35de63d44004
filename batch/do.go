package batch

import (
	"context"
	"time"
)

// call is a query with a place to wait for its answer. Calls are reused.
type call[In, Out any] struct {
	query Query[In, Out]
	done  chan struct{}
	key   string
	next  *call[In, Out] // that arrived before it, see arrive
}

func newCall[In, Out any]() *call[In, Out] {
	c := &call[In, Out]{done: make(chan struct{}, 1)}
	c.query.Done = func(*Query[In, Out]) { c.done <- struct{}{} }
	return c
}

// Do submits one API query and waits for its answer. When ctx ends first, the
// query leaves the queue, or, if it is being computed already, its answer is
// dropped; the error is the cause of ctx's end, also where both came at once. Errors
// are those of [Batcher.Submit] and of the model.
func (b *Batcher[In, Out]) Do(ctx context.Context, in In) (Out, error) {
	out, _, err := b.DoTrip(ctx, in)
	return out, err
}

// DoTrip is Do that also tells how the query fared.
func (b *Batcher[In, Out]) DoTrip(ctx context.Context, in In) (Out, Trip, error) {
	return b.DoFor(ctx, in, "", 0)
}

// DoFor is DoTrip for a query of the given caller and priority, see [Query].
func (b *Batcher[In, Out]) DoFor(ctx context.Context, in In, caller string, priority int) (Out, Trip, error) {
	c := b.calls.Get().(*call[In, Out])
	c.query.Context, c.query.In, c.query.Origin = ctx, in, API
	c.query.Caller, c.query.Priority = caller, priority
	if err := b.arrive(c); err != nil {
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
	if err != nil && trip.BatchID != 0 && ctx.Err() != nil { // it came when ctx ended, perhaps because it did
		var none Out
		return none, Trip{}, context.Cause(ctx)
	}
	return out, trip, err
}

// arrive is Submit for a call, whose caller waits and so may be told later that
// it was refused. It keeps callers off the lock: they put their calls on a list,
// and the one that finds the list empty takes in all that are on it once it has
// the lock. Many callers then cost the lock one of them at a time, and their
// queries are in the queue together.
func (b *Batcher[In, Out]) arrive(c *call[In, Out]) (err error) {
	q := &c.query
	if b.opts.Split != nil {
		return b.Submit(q) // its callback might end the goroutine, and others would wait for it
	}
	if q.dead() {
		return b.refuse(left(b.opts.Name, q))
	}
	if c.key, err = b.measure(q); err != nil {
		return b.refuse(err)
	}
	q.admitted()
	before := b.arrivals.Load()
	for c.next = before; !b.arrivals.CompareAndSwap(before, c); c.next = before {
		before = b.arrivals.Load()
	}
	if before == nil {
		b.takeIn()
	}
	return nil
}

// takeIn admits the calls that have arrived, in their order.
func (b *Batcher[In, Out]) takeIn() {
	now := b.opts.Clock.Now()
	var work work[In, Out]
	var refused *call[In, Out]
	b.mu.Lock()
	c := reversed(b.arrivals.Swap(nil))
	if c.next == nil {
		if grown := b.admitCall(c, now, &refused, &work); grown != nil {
			b.dispatchArrival(grown, now, &work)
		}
	} else {
		for c != nil {
			following := c.next
			c.next = nil
			b.admitCall(c, now, &refused, &work)
			c = following
		}
		b.dispatch(now, &work)
	}
	b.mu.Unlock()
	b.do(&work)
	for refused != nil {
		c := refused
		refused, c.next = c.next, nil
		c.done <- struct{}{}
	}
}

// admitCall admits a call's query, or puts the call on a list of those that
// were refused. mu is held.
func (b *Batcher[In, Out]) admitCall(c *call[In, Out], now time.Time, refused **call[In, Out], w *work[In, Out]) *group[In, Out] {
	grown, err := b.admit(&c.query, c.key, now, w)
	if err != nil {
		b.countRefusal(err)
		c.query.Err = err
		c.next, *refused = *refused, c
		return nil
	}
	return grown
}

// reversed turns a list of calls round.
func reversed[In, Out any](newest *call[In, Out]) (oldest *call[In, Out]) {
	for newest != nil {
		following := newest.next
		newest.next, oldest = oldest, newest
		newest = following
	}
	return oldest
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
