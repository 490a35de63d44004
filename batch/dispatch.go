package batch

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// work is what a change of the queue leads to, done once the lock is released:
// batches to start, and queries to tell that were dropped or given up.
type work[In, Out any] struct {
	first   *Batch[In, Out] // most changes start one batch or none
	more    []*Batch[In, Out]
	recall  *Batch[In, Out] // to be asked for
	done    []*Query[In, Out]
	starved bool // a query came and there is no replica at all
}

func (w *work[In, Out]) start(b *Batch[In, Out]) {
	if w.first == nil {
		w.first = b
	} else {
		w.more = append(w.more, b)
	}
}

func (b *Batcher[In, Out]) do(w *work[In, Out]) {
	if w.first != nil {
		w.first.replica.opts.Run(w.first)
	}
	for _, started := range w.more {
		started.replica.opts.Run(started)
	}
	if w.recall != nil {
		w.recall.replica.opts.Recall(w.recall)
	}
	if w.starved && b.opts.OnStarved != nil {
		b.opts.OnStarved()
	}
	if len(w.done) == 0 {
		return
	}
	for _, q := range w.done {
		q.Done(q)
	}
	b.answered(len(w.done))
}

// dispatchArrival starts what the arrival of a query in g makes ready. It
// spares the search of [queue.next] when the query is merely held back.
func (b *Batcher[In, Out]) dispatchArrival(g *group[In, Out], now time.Time, w *work[In, Out]) {
	if w.done != nil || len(b.replicas) == 0 { // who was evicted may have stood before others
		b.dispatch(now, w)
		return
	}
	if b.free == 0 && (b.ahead == 0 || g.cost < b.limits.MaxBatchSize) {
		return
	}
	if b.limits.BatchWaitTimeout > 0 {
		limits := b.limits
		if limits.BatchWaitTimeout = b.wait(); !g.ready(now, limits) {
			b.wakeBy(g.leaveBy(limits.BatchWaitTimeout), now)
			w.recall = b.sentAhead() // as dispatch does: a replica is free
			return
		}
	}
	b.dispatch(now, w)
}

// dispatch gives batches to free replicas until one or the other runs out, and
// full ones to busy replicas that take them ahead. mu is held.
func (b *Batcher[In, Out]) dispatch(now time.Time, w *work[In, Out]) {
	limits := b.limits
	if limits.BatchWaitTimeout = b.wait(); b.draining {
		limits.BatchWaitTimeout = 0
	}
	w.starved = w.starved || len(b.replicas) == 0 && b.queued() > 0
	for b.free > 0 || b.ahead > 0 {
		if len(b.isolations) > 0 {
			if b.dispatchPart(now, w) {
				continue
			}
			if b.free == 0 {
				return // a part goes next: nothing is sent ahead of it
			}
		}
		g, again := b.waiting.next(now, limits)
		if b.free == 0 && (g == nil || g.cost < limits.MaxBatchSize || b.most(g, b.nextFree(now)) < limits.MaxBatchSize) {
			return
		}
		if g == nil {
			if !again.IsZero() {
				b.wakeBy(again, now)
			}
			w.recall = b.sentAhead()
			return
		}
		if b.holds(g, now) {
			w.recall = b.sentAhead()
			return
		}
		if b.dropDead(g, now, w) {
			continue // without them another group may be the one to leave
		}
		batch := b.blank()
		batch.Queries, batch.Reason = b.take(g, now, limits, batch.Queries)
		if b.draining && b.limits.BatchWaitTimeout > 0 && (batch.Reason == Free || batch.Reason == Key) {
			batch.Reason = Drain
		}
		b.book(batch, now)
		w.start(batch)
	}
}

// dropDead drops the queries that nobody waits for any more, and those that cannot be
// answered in time, as far as the next batch of g reaches, and reports whether there
// were any. Where nobody can be in time the batch goes as it is: what was learned may
// be wrong, and what it takes corrects that. mu is held.
func (b *Batcher[In, Out]) dropDead(g *group[In, Out], now time.Time, w *work[In, Out]) bool {
	before, cost := len(w.done), 0
	begin, likely := now, min(g.cost, b.limits.MaxBatchSize)
	if b.free == 0 {
		begin = b.nextFree(now)
	}
	late := b.lates[:0]
	order := b.waiting.order(g)
	for q := order.next(); q != nil && cost < b.limits.MaxBatchSize; q = order.next() {
		switch {
		case q.dead():
			b.drop(q, left(b.opts.Name, q), w)
		case q.over(now):
			b.drop(q, dropped(b.opts.Name, context.DeadlineExceeded), w)
		case b.late(q, likely, begin):
			late = append(late, q)
		default:
			cost += q.cost
		}
	}
	if cost > 0 {
		for _, q := range late {
			b.stats.Late++
			b.drop(q, dropped(b.opts.Name, fmt.Errorf("it could not be answered in time any more: %w", context.DeadlineExceeded)), w)
		}
	}
	clear(late)
	b.lates = late[:0]
	return len(w.done) > before
}

// drop takes a query out of the queue; w tells it once the lock is released.
// mu is held.
func (b *Batcher[In, Out]) drop(q *Query[In, Out], err error, w *work[In, Out]) {
	if q.part != nil {
		b.unpart(q)
	} else {
		b.remove(q)
	}
	b.giveUp(q, err, w)
}

// giveUp fails a query that is not in the queue and was not computed; w tells it once
// the lock is released. mu is held.
func (b *Batcher[In, Out]) giveUp(q *Query[In, Out], err error, w *work[In, Out]) {
	q.Err, q.Trip = err, Trip{}
	b.stats.Dropped++
	b.answering.Add(1)
	w.done = append(w.done, q)
}

// dropWaiting drops all queries that wait, also those for another try. mu is held.
func (b *Batcher[In, Out]) dropWaiting(err error, w *work[In, Out]) {
	for q := b.waiting.oldest; q != nil; q = b.waiting.oldest {
		b.drop(q, err, w)
	}
	for _, s := range slices.Clone(b.isolations) {
		for _, q := range s.waiting() {
			b.drop(q, err, w)
		}
		b.checkOver(s)
	}
}

// book numbers a batch and books it on the replica that suits it best. mu is held.
func (b *Batcher[In, Out]) book(batch *Batch[In, Out], now time.Time) {
	r := b.freest()
	if b.free == 0 {
		r = b.soonest()
	}
	b.running += len(batch.Queries)
	b.batches++
	for _, q := range batch.Queries {
		batch.cost += q.cost
		q.batch = batch
	}
	batch.ID, batch.Origin, batch.Left, batch.replica = b.batches, batch.Queries[0].Origin, now, r
	r.accept(batch, now)
}

// freest returns the replica with most free slots. mu is held.
func (b *Batcher[In, Out]) freest() *Replica[In, Out] {
	best := b.replicas[0]
	for _, r := range b.replicas[1:] {
		if r.free() > best.free() {
			best = r
		}
	}
	return best
}

// soonest returns the busy replica that takes a batch ahead and will probably
// come to it first: the one that has computed longest. mu is held.
func (b *Batcher[In, Out]) soonest() (best *Replica[In, Out]) {
	for _, r := range b.replicas {
		if r.room() > 0 && (best == nil || r.batches[0].started.Before(best.batches[0].started)) {
			best = r
		}
	}
	return best
}

// sentAhead returns a batch that waits at a busy replica and that nobody has
// asked for yet; nil if there is none. mu is held.
func (b *Batcher[In, Out]) sentAhead() *Batch[In, Out] {
	for _, r := range b.replicas {
		if len(r.batches) > r.slots {
			if last := r.batches[len(r.batches)-1]; !last.asked {
				last.asked = true
				return last
			}
		}
	}
	return nil
}

// wakeBy makes sure that the queue is looked at again at the given moment,
// when a hold ends. mu is held.
func (b *Batcher[In, Out]) wakeBy(at, now time.Time) {
	if b.hold != nil {
		if !at.Before(b.holdEnds) {
			return
		}
		b.hold.Stop()
	}
	b.holdEnds = at
	b.hold = b.opts.Clock.AfterFunc(at.Sub(now), b.wake)
}

func (b *Batcher[In, Out]) wake() {
	var work work[In, Out]
	now := b.opts.Clock.Now()
	b.mu.Lock()
	b.hold = nil
	if b.queued() > 0 { // else what it was set for has left
		b.dispatch(now, &work)
	}
	b.mu.Unlock()
	b.do(&work)
}

// left is the error of a query whose context ended, or that was withdrawn,
// before it ran.
func left[In, Out any](name string, q *Query[In, Out]) error {
	cause := context.Canceled
	if q.dead() {
		cause = context.Cause(q.Context)
	}
	return dropped(name, cause)
}

func dropped(name string, cause error) error {
	return fmt.Errorf("backend %q: the query was dropped before it ran: %w", name, cause)
}
