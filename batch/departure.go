package batch

import "time"

// Group tells which queries may share a batch: those of one origin, one key, and
// one caller where callers must not share.
type Group struct {
	Origin Origin
	Key    string
	Caller string // where Limits.IsolateCallers is set
}

// Waiting is what a free replica could take at once.
type Waiting struct {
	Group   Group
	Queries int       // how many queries wait
	Cost    int       // what they cost
	Max     int       // the most that a batch may cost
	Oldest  time.Time // when the first of them arrived
	Free    int       // the slots of replicas that are free, at least 1
	// Next is when a busy slot will probably be free; zero if none is busy.
	Next time.Time
	// By is the latest moment at which the batch may leave to meet
	// Limits.LatencySLO; zero without one.
	By time.Time
}

// Answered is a batch that was computed.
type Answered struct {
	Group   Group
	Queries int
	Cost    int
	Took    time.Duration // the replica's time
	// Waited is the time from arrival until the replica began, summed over the
	// queries, and Squares the sum of the squares of the times from arrival to
	// answer, in ns².
	Waited  time.Duration
	Squares float64
	Slots   int // the batches that all replicas compute at a time
}

// Departure decides how long a free replica waits for company for the queries
// that it could take at once. A Batcher calls it with its lock held, in the
// order of time: it must be quick and must not call the Batcher. The default
// learns and is meant to serve everybody; others are there to be compared with it,
// as package sim does.
type Departure interface {
	// Arrived tells of a query that was admitted.
	Arrived(now time.Time, g Group)
	// Answered tells of a batch that was computed.
	Answered(now time.Time, a Answered)
	// Hold says until when w is to be held; now, or an earlier moment, lets it
	// leave. It is asked again at that moment and whenever a query arrives or a
	// replica gets free.
	Hold(now time.Time, w Waiting) time.Time
	// Left tells that a batch of w leaves, held before or not.
	Left(now time.Time, w Waiting)
}

// departs reports whether the departure policy is in force. mu is held.
func (b *Batcher[In, Out]) departs() bool {
	return !b.limits.LeaveAtOnce && b.limits.MaxBatchSize > 1 && b.limits.BatchWaitTimeout <= 0
}

// holds reports whether the policy holds g, the oldest group, and makes sure
// that it is looked at again. A hold is for one group: while others wait too, it would
// make them wait for nothing. mu is held.
func (b *Batcher[In, Out]) holds(g *group[In, Out], now time.Time) bool {
	if b.free == 0 || b.draining || g.len < b.waiting.len || g.cost >= b.limits.MaxBatchSize || !b.departs() {
		return false
	}
	b.hurried = false
	until := b.departure.Hold(now, b.waits(g, now))
	if by := b.leaveBy(g); !by.IsZero() && by.Before(until) {
		until = by
	}
	if !until.After(now) {
		return false
	}
	if b.held != g {
		g.findUrgent() // nobody looked at deadlines while nothing was held
	}
	if !g.urgent.IsZero() && !g.urgent.After(now) {
		g.findUrgent() // it may have been that of a query that has left
	}
	if !g.urgent.IsZero() && g.urgent.Before(until) {
		if b.hurried = !g.urgent.After(now); b.hurried {
			return false
		}
		until = g.urgent
	}
	b.held = g
	b.wakeBy(until, now)
	return true
}

// waits is what the policy is shown of g. mu is held.
func (b *Batcher[In, Out]) waits(g *group[In, Out], now time.Time) Waiting {
	w := Waiting{
		Group: g.key, Queries: g.len, Cost: g.cost, Max: b.limits.MaxBatchSize, Oldest: g.oldest().arrived, Free: b.free,
		By: b.leaveBy(g),
	}
	if b.running > 0 {
		w.Next = b.nextFree(now)
	}
	return w
}

// nextFree is the moment at which a busy slot will probably be free. mu is held.
func (b *Batcher[In, Out]) nextFree(now time.Time) (next time.Time) {
	for _, r := range b.replicas {
		for _, batch := range r.batches[:min(r.slots, len(r.batches))] {
			if at := batch.started.Add(b.service.expect(batch.cost)); next.IsZero() || at.Before(next) {
				next = at
			}
		}
	}
	if !next.IsZero() && next.Before(now) {
		return now
	}
	return next
}

// take removes the next batch of g from the queue and appends it to room. mu is held.
func (b *Batcher[In, Out]) take(g *group[In, Out], now time.Time, limits Limits, room []*Query[In, Out]) ([]*Query[In, Out], Reason) {
	held, hurried := b.held == g && b.departs(), b.hurried
	b.endHold()
	if b.departs() {
		b.departure.Left(now, b.waits(g, now))
	}
	limits.MaxBatchSize = b.most(g, now)
	elder := b.waiting.oldest
	batch, reason := b.waiting.take(g, now, limits, room)
	b.waiting.pass(elder, levelOf(batch[0].Priority))
	switch {
	case limits.MaxBatchSize < b.limits.MaxBatchSize && (reason == Full || reason == Cost):
		return batch, SLO
	case !held || reason != Free:
		return batch, reason
	case b.draining:
		return batch, Drain
	case hurried:
		return batch, Deadline
	}
	return batch, Hold
}

// remove takes a query out of the queue. mu is held.
func (b *Batcher[In, Out]) remove(q *Query[In, Out]) {
	g := q.group
	b.waiting.remove(q)
	if g == b.held && g.len == 0 {
		b.endHold()
	}
}

// endHold ends the hold that is on, if any. mu is held.
func (b *Batcher[In, Out]) endHold() {
	if b.held == nil {
		return
	}
	b.held, b.hurried = nil, false
	if b.hold != nil && b.departs() { // otherwise it may be that of other holds
		b.hold.Stop()
		b.hold = nil
	}
}

// learn takes note of a batch that was computed. mu is held.
func (b *Batcher[In, Out]) learn(batch *Batch[In, Out], now time.Time, failed bool) {
	if !failed { // how soon a model fails says nothing of how long it takes
		b.service.learn(batch.cost, batch.Computed)
	}
	if !b.departs() {
		return
	}
	a := Answered{Group: batch.Queries[0].key, Queries: len(batch.Queries), Cost: batch.cost, Took: batch.Computed}
	for _, q := range batch.Queries {
		waited := batch.started.Sub(q.arrived)
		a.Waited += waited
		d := float64(waited + batch.Computed)
		a.Squares += d * d
	}
	for _, r := range b.replicas {
		a.Slots += r.slots
	}
	if batch.part == nil && !batch.Queries[0].once { // else its queries waited for others than the policy knows
		b.departure.Answered(now, a)
	}
}
