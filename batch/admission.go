package batch

import (
	"fmt"
	"time"
)

// room makes room for q, as n queries, in the queue, or refuses it if its bounds do
// not allow that. An empty queue takes any one query, in however many parts and
// bytes: otherwise no number of retries would get it in. mu is held.
func (b *Batcher[In, Out]) room(q *Query[In, Out], n int, now time.Time, w *work[In, Out]) error {
	reason := b.full(n, q.bytes)
	if reason == admitted {
		return nil
	}
	if b.makeRoom(q, n, now, w) {
		return nil
	}
	if reason == QueueFull {
		return b.overload(reason, b.drained(now), "%d queries wait, max_queued is %d", b.waiting.len, b.limits.MaxQueued)
	}
	return b.overload(reason, b.drained(now), "%d bytes wait and the query has %d, max_queued_bytes is %d", b.waiting.bytes, q.bytes, b.limits.MaxQueuedBytes)
}

// full tells which bound n more queries with so many bytes exceed. mu is held.
func (b *Batcher[In, Out]) full(n int, bytes int64) Refusal {
	switch {
	case b.waiting.len == 0:
	case b.waiting.len+n > b.limits.MaxQueued:
		return QueueFull
	case b.waiting.bytes+bytes > b.limits.MaxQueuedBytes:
		return QueueBytes
	}
	return admitted
}

// makeRoom evicts queries that q is to be preferred to, if that is enough. Nothing
// leaves for nothing. mu is held.
func (b *Batcher[In, Out]) makeRoom(q *Query[In, Out], n int, now time.Time, w *work[In, Out]) bool {
	level := levelOf(q.Priority)
	if b.waiting.mixed == 0 && q.Caller == "" && level == usual {
		return false
	}
	caller := b.waiting.flow(q.Caller)
	var victims []*Query[In, Out]
	enough := true
	for b.full(n, q.bytes) != admitted && enough {
		victim := b.waiting.victim(caller, level, q)
		if enough = victim != nil; enough {
			victims = append(victims, victim)
			victim.leaving = true
			b.waiting.book(victim, -1)
		}
	}
	again := b.drained(now)
	for _, v := range victims {
		v.leaving = false
		b.waiting.book(v, 1)
	}
	if !enough {
		return false
	}
	for _, v := range victims {
		b.stats.Evicted++
		b.drop(v, b.overload(Evicted, again, "the query made room for one of a caller with less in the queue, or of a higher priority"), w)
	}
	return true
}

// victim is the query that leaves first when there is no room for q: the newest of
// the caller that has most waiting, for its weight, of the lowest priority. None
// leaves for a query of a lower priority; for one of the same priority, only if its
// caller then still has no less than the other. nil: there is none.
func (w *queue[In, Out]) victim(caller *flow, level int, q *Query[In, Out]) (victim *Query[In, Out]) {
	lowest := 0
	for lowest < levels && w.levels[lowest] == 0 {
		lowest++
	}
	if lowest > level || lowest == levels {
		return nil
	}
	var most float64
	for g := range w.waiting {
		for l := range g.each {
			newest := l.newest
			for newest != nil && newest.leaving {
				newest = newest.prevMate
			}
			if l.level != lowest || newest == nil {
				continue
			}
			if load := l.flow.load(lowest); victim == nil || load > most || load == most && newest.seq > victim.seq {
				victim, most = newest, load
			}
		}
	}
	of := victim.lane.flow
	if lowest == level && (of == caller || most-float64(victim.cost)/of.weight < caller.load(level)+float64(q.cost)/caller.weight) {
		return nil
	}
	return victim
}

// load is what the caller has waiting of a level, for its weight.
func (f *flow) load(level int) float64 { return float64(f.levels[level].cost) / f.weight }

// burst is for how long the queue time may be above its target before queries are
// refused for it.
const burst = 100 * time.Millisecond

// minLearned is how many batches must have been computed before queries are refused
// or dropped for how long others took.
const minLearned = 4

// inTime refuses a query that would wait or be answered too late. As long as a
// replica is free none is: then what was learned can correct itself. mu is held.
func (b *Batcher[In, Out]) inTime(q *Query[In, Out], now time.Time) error {
	target := b.limits.QueueTimeTarget
	if b.free > 0 || len(b.replicas) == 0 || (target <= 0 && (q.due.IsZero() || b.limits.ComputeLate)) {
		return nil
	}
	learned := b.service.batches >= minLearned
	if target > 0 && b.standing(now) {
		wait := now.Sub(b.waiting.oldest.arrived)
		if learned {
			wait, _ = b.expect(q, now)
		}
		if wait > target {
			return b.overload(QueueTime, wait-target, "queries wait for %v and more, queue_time_target is %v", wait.Round(time.Millisecond), target)
		}
	}
	if q.due.IsZero() || b.limits.ComputeLate || !learned {
		return nil
	}
	left := q.due.Sub(now)
	if wait, answered := b.expect(q, now); answered > left {
		return b.overload(TooLate, answered-left, "it would be answered in %v, after a wait of %v, and has %v left",
			answered.Round(time.Millisecond), wait.Round(time.Millisecond), left.Round(time.Millisecond))
	}
	return nil
}

// standing reports whether the time that queries wait has been above its target for
// longer than a burst takes. That the oldest query is younger, if only once, ends it: the
// queue that does not go away is what tells overload from a burst (CoDel: Nichols and
// Jacobson, Controlling Queue Delay, ACM Queue 2012). mu is held.
func (b *Batcher[In, Out]) standing(now time.Time) bool {
	if oldest := b.waiting.oldest; oldest == nil || now.Sub(oldest.arrived) <= b.limits.QueueTimeTarget {
		b.above = time.Time{}
		return false
	}
	if b.above.IsZero() {
		b.above = now
	}
	return now.Sub(b.above) >= burst
}

// expect is how long a query that arrives now will probably wait for a replica, and
// when it will be answered, by the service times learned and what waits before it.
// Those with other keys are reckoned to fill batches, too. mu is held.
func (b *Batcher[In, Out]) expect(q *Query[In, Out], now time.Time) (wait, answered time.Duration) {
	most := b.limits.MaxBatchSize
	slots, ahead := 0, 0
	for _, r := range b.replicas {
		slots += r.slots
		ahead += max(0, len(r.batches)-r.slots)
	}
	before := b.waiting.before(q)
	full := b.service.at(most)
	batches := ahead + before/most
	retries := b.retries()
	wait = b.nextFree(now).Sub(now) + time.Duration((float64(batches)*full+retries)/float64(slots))
	if batches == 0 && retries == 0 {
		return wait, wait + b.service.expect(min(most, before+q.cost))
	}
	// Who comes late fills it up. Of those that are admitted at the edge hardly any
	// may be late, or all that is computed would be too late.
	return wait, wait + wait/16 + b.service.likely(most)
}

// retries is how long the parts of failed batches will take that wait, in nanoseconds;
// more are to come where they fail, too. mu is held.
func (b *Batcher[In, Out]) retries() (time float64) {
	for _, s := range b.isolations {
		for _, p := range s.parts {
			time += b.service.at(p.cost())
		}
	}
	return time
}

// before is the cost of what leaves before a query that arrives now: all of higher
// levels, what its caller has waiting, and of others as much as their share allows.
func (w *queue[In, Out]) before(q *Query[In, Out]) (cost int) {
	if w.mixed == 0 && q.Caller == "" && q.Priority == 0 {
		return w.cost
	}
	level := levelOf(q.Priority)
	for l := level + 1; l < levels; l++ {
		cost += w.levels[l]
	}
	own := w.flow(q.Caller)
	until := own.load(level) + float64(q.cost)/own.weight
	share := func(f *flow) int { return min(f.levels[level].cost, int(until*f.weight)) }
	for _, f := range w.flows {
		if f != own {
			cost += share(f)
		}
	}
	if own != &w.anonymous {
		cost += share(&w.anonymous)
	}
	return cost + own.levels[level].cost
}

// drained is when all that waits now will probably have left; 0 if that is not known.
// mu is held.
func (b *Batcher[In, Out]) drained(now time.Time) time.Duration {
	slots := 0
	for _, r := range b.replicas {
		slots += r.slots
	}
	if slots == 0 || b.service.batches == 0 {
		return 0
	}
	most := b.limits.MaxBatchSize
	batches := (b.waiting.cost + most - 1) / most
	wait := time.Duration((float64(batches)*b.service.at(most) + b.retries()) / float64(slots))
	if next := b.nextFree(now); !next.IsZero() {
		wait += next.Sub(now)
	}
	return wait
}

// overload makes the error of a query that is refused or evicted.
func (b *Batcher[In, Out]) overload(reason Refusal, retryAfter time.Duration, format string, args ...any) error {
	return &OverloadError{Name: b.opts.Name, Reason: reason, RetryAfter: retryAfter, detail: fmt.Sprintf(format, args...)}
}

// late reports whether a query of a batch of so much cost, which begins at the given
// moment, is certain enough to be answered too late. mu is held.
func (b *Batcher[In, Out]) late(q *Query[In, Out], cost int, begin time.Time) bool {
	if q.due.IsZero() || b.limits.ComputeLate || b.service.batches < minLearned {
		return false
	}
	took := b.service.at(cost) * max(0, 1-2*b.service.spread)
	return begin.Add(time.Duration(took)).After(q.due)
}
