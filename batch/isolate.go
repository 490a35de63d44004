package batch

import (
	"context"
	"errors"
	"slices"
	"time"
)

// OnError says what becomes of a batch that failed as a whole.
type OnError uint8

const (
	// Isolate computes it again in parts, until the guilty queries stand alone.
	Isolate OnError = iota
	// FailAll fails all of its queries: for models whose calls have effects that
	// must not be repeated.
	FailAll
)

// failure is how a batch failed as a whole.
type failure uint8

const (
	raised      failure = iota // the replica said so, and goes on
	lost                       // the replica ended
	interrupted                // it was made to end, since the batch took too long
)

// isolate begins or goes on with the isolation of a batch that failed with err,
// or whose replica died. In the batch it leaves those queries that fail with it.
// mu is held.
func (b *Batcher[In, Out]) isolate(batch *Batch[In, Out], err error, how failure, now time.Time) {
	n, s, died := len(batch.Queries), (*isolation[In, Out])(nil), how != raised
	if batch.part != nil {
		s = batch.part.isolation
	} else if b.limits.OnError == Isolate && !b.gaveUp && (how == lost || how == raised && n > 1) && !batch.Queries[0].once {
		s = newIsolation[In, Out](n)
		b.isolations = append(b.isolations, s)
		b.stats.Isolated++
	}
	if s != nil {
		s.running = false
		s.fail(n, batch.part != nil, died)
	}
	retry := s != nil && how != interrupted && !b.gaveUp && b.refusal == nil && !errors.Is(err, ErrStopped)
	var again []*Query[In, Out]
	final := batch.Queries[:0]
	for _, q := range batch.Queries {
		if died {
			q.deaths++
		}
		q.Trip = batch.trip(q)
		q.attempts++
		switch {
		case !retry, q.gone, q.dead(), q.over(now), n == 1 && how == raised:
			q.Err = err
			final = append(final, q)
		case n == 1 && q.deaths >= fatal:
			q.Err = &LostError{Name: b.opts.Name, Replicas: q.deaths, Err: err}
			b.stats.Poison++
			batch.replica.blamed = true
			final = append(final, q)
		default:
			again = append(again, q)
		}
	}
	clear(batch.Queries[len(final):])
	batch.Queries, batch.Again, batch.Err = final, len(again), err
	if len(again) > 0 {
		b.suspects += len(again)
		s.add(again, err)
	}
	if s != nil {
		b.checkOver(s)
	}
}

// pass goes on with an isolation of which a part passed. mu is held.
func (b *Batcher[In, Out]) pass(p *part[In, Out]) {
	p.isolation.running = false
	p.isolation.pass(p)
	b.checkOver(p.isolation)
}

// checkOver ends an isolation of which nothing is left. mu is held.
func (b *Batcher[In, Out]) checkOver(s *isolation[In, Out]) {
	if !s.running && len(s.parts) == 0 {
		b.isolations = slices.DeleteFunc(b.isolations, func(other *isolation[In, Out]) bool { return other == s })
	}
}

// dispatchPart gives a part of a batch that failed to a free replica, and reports
// whether there was one. Parts go before all that waits: their queries are older.
// mu is held.
func (b *Batcher[In, Out]) dispatchPart(now time.Time, w *work[In, Out]) bool {
	if b.free == 0 {
		return false
	}
	for i := 0; i < len(b.isolations); {
		s := b.isolations[i]
		if s.running || b.spares(s, now) {
			i++
			continue
		}
		if p := b.nextPart(s, now, w); p != nil {
			b.startPart(p, now, w)
			return true
		}
		b.checkOver(s) // and so b.isolations[i] is another
	}
	return false
}

// spareFor is how long the last replica is spared: not all that end are replaced.
const spareFor = 10 * time.Second

// spares reports whether the last replica is spared a part that seems to end
// replicas, because another is about to come back. mu is held.
func (b *Batcher[In, Out]) spares(s *isolation[In, Out], now time.Time) bool {
	if s.ended < fatal || len(b.replicas) > 1 || b.lost == 0 || b.draining {
		return false
	}
	if until := b.lastLost.Add(spareFor); now.Before(until) {
		b.wakeBy(until, now)
		return true
	}
	b.lost = 0
	return false
}

// nextPart takes the next part out of an isolation, without the queries that
// nobody waits for. mu is held.
func (b *Batcher[In, Out]) nextPart(s *isolation[In, Out], now time.Time, w *work[In, Out]) *part[In, Out] {
	for _, q := range s.waiting() {
		switch {
		case q.dead():
			b.drop(q, left(b.opts.Name, q), w)
		case q.over(now):
			b.drop(q, dropped(b.opts.Name, context.DeadlineExceeded), w)
		}
	}
	if s.hopeless() {
		for _, q := range s.waiting() {
			q.Err = q.part.err
			b.unpart(q)
			b.stats.Failed++
			b.answering.Add(1)
			w.done = append(w.done, q)
		}
	}
	return s.next(b.limits)
}

// startPart books a part as a batch of its own. mu is held.
func (b *Batcher[In, Out]) startPart(p *part[In, Out], now time.Time, w *work[In, Out]) {
	p.isolation.running = true
	p.isolation.calls--
	b.suspects -= len(p.queries)
	batch := b.blank()
	batch.Queries, batch.Reason, batch.part = append(batch.Queries, p.queries...), Retry, p
	for _, q := range p.queries {
		q.part = nil
	}
	b.book(batch, now)
	w.start(batch)
}

// returned puts a part back that its replica did not begin. mu is held.
func (b *Batcher[In, Out]) returned(p *part[In, Out]) {
	s := p.isolation
	s.running = false
	s.calls++
	for _, q := range p.queries {
		q.part = p
	}
	b.suspects += len(p.queries)
	s.parts = slices.Insert(s.parts, 0, p)
}

// unpart takes a query out of the part in which it waits. mu is held.
func (b *Batcher[In, Out]) unpart(q *Query[In, Out]) {
	p := q.part
	q.part = nil
	p.take(q)
	b.suspects--
	b.checkOver(p.isolation)
}
