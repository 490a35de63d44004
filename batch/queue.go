package batch

import (
	"slices"
	"time"
)

// queue holds the queries that wait, in order of arrival, and again by group.
// The oldest query of all names the group that leaves next: that alone makes
// the choice of a group fair and takes no search. It is not safe for concurrent
// use; the Batcher's mutex guards it.
type queue[In, Out any] struct {
	oldest, newest *Query[In, Out]
	keyless        [origins]group[In, Out]   // of the queries whose key is empty, by origin: most have no other
	groups         map[Group]*group[In, Out] // of the others; none is empty
	spare          *group[In, Out]           // the last emptied group, kept for the next arrival
	len            int
	bytes          int64
	seq            uint64 // of the newest arrival
}

// group is the queries of one key that wait, in order of arrival.
type group[In, Out any] struct {
	key            Group
	oldest, newest *Query[In, Out]
	len, cost      int
	// urgent is the earliest moment at which a deadline in the group ends a
	// hold; zero means none does. It may be that of a query that has left.
	urgent time.Time
}

func (w *queue[In, Out]) push(q *Query[In, Out], key Group) *group[In, Out] {
	w.seq++
	q.seq = w.seq
	g := w.group(key)
	w.insert(q, g, w.newest, g.newest)
	return g
}

// putBack puts a query that had left back into its old place.
func (w *queue[In, Out]) putBack(q *Query[In, Out]) {
	g := w.group(q.key)
	after, mate := (*Query[In, Out])(nil), (*Query[In, Out])(nil)
	for next := w.oldest; next != nil && next.seq < q.seq; next = next.next {
		after = next
	}
	for next := g.oldest; next != nil && next.seq < q.seq; next = next.nextMate {
		mate = next
	}
	w.insert(q, g, after, mate)
	g.findUrgent()
}

// group returns the group of a key, which may be new and empty.
func (w *queue[In, Out]) group(key Group) *group[In, Out] {
	if key.Key == "" {
		g := &w.keyless[key.Origin]
		g.key = key
		return g
	}
	g := w.groups[key]
	if g == nil {
		if g, w.spare = w.spare, nil; g == nil {
			g = new(group[In, Out])
		}
		g.key = key
		w.groups[key] = g
	}
	return g
}

// waiting iterates over the groups that are not empty.
func (w *queue[In, Out]) waiting(yield func(*group[In, Out]) bool) {
	for i := range w.keyless {
		if g := &w.keyless[i]; g.oldest != nil && !yield(g) {
			return
		}
	}
	for _, g := range w.groups {
		if !yield(g) {
			return
		}
	}
}

// insert links a query into the order of arrival behind after, and into that of
// its group behind mate; nil stands for the front.
func (w *queue[In, Out]) insert(q *Query[In, Out], g *group[In, Out], after, mate *Query[In, Out]) {
	q.group, q.key = g, g.key
	q.prev, q.prevMate = after, mate
	if after == nil {
		q.next, w.oldest = w.oldest, q
	} else {
		q.next, after.next = after.next, q
	}
	if q.next == nil {
		w.newest = q
	} else {
		q.next.prev = q
	}
	if mate == nil {
		q.nextMate, g.oldest = g.oldest, q
	} else {
		q.nextMate, mate.nextMate = mate.nextMate, q
	}
	if q.nextMate == nil {
		g.newest = q
	} else {
		q.nextMate.prevMate = q
	}
	g.len++
	g.cost += q.cost
	w.len++
	w.bytes += q.bytes
}

func (w *queue[In, Out]) remove(q *Query[In, Out]) {
	g := q.group
	if q.prev == nil {
		w.oldest = q.next
	} else {
		q.prev.next = q.next
	}
	if q.next == nil {
		w.newest = q.prev
	} else {
		q.next.prev = q.prev
	}
	if q.prevMate == nil {
		g.oldest = q.nextMate
	} else {
		q.prevMate.nextMate = q.nextMate
	}
	if q.nextMate == nil {
		g.newest = q.prevMate
	} else {
		q.nextMate.prevMate = q.prevMate
	}
	q.group, q.prev, q.next, q.prevMate, q.nextMate = nil, nil, nil, nil, nil
	g.len--
	g.cost -= q.cost
	w.len--
	w.bytes -= q.bytes
	if g.oldest == nil {
		g.urgent = time.Time{}
		if g.key.Key != "" {
			delete(w.groups, g.key)
			*g = group[In, Out]{}
			w.spare = g
		}
	}
}

// hurry notes the moment at which q's deadline ends a hold: a hold may use up
// half of the time that the query had on arrival; the other half is for
// computing it.
func (g *group[In, Out]) hurry(q *Query[In, Out]) {
	if q.Context == nil {
		return
	}
	if deadline, ok := q.Context.Deadline(); ok {
		by := q.arrived.Add(deadline.Sub(q.arrived) / 2)
		if g.urgent.IsZero() || by.Before(g.urgent) {
			g.urgent = by
		}
	}
}

// findUrgent sets urgent from the queries that still wait.
func (g *group[In, Out]) findUrgent() {
	g.urgent = time.Time{}
	for q := g.oldest; q != nil; q = q.nextMate {
		g.hurry(q)
	}
}

// leaveBy is the moment at which a hold of the group ends.
func (g *group[In, Out]) leaveBy(hold time.Duration) time.Time {
	by := g.oldest.arrived.Add(hold)
	if !g.urgent.IsZero() && g.urgent.Before(by) {
		return g.urgent
	}
	return by
}

// ready reports whether a hold of the group is over: nothing is gained by
// waiting for a batch that is full, and nothing is allowed after leaveBy.
func (g *group[In, Out]) ready(now time.Time, l Limits) bool {
	if g.cost >= l.MaxBatchSize {
		return true
	}
	if now.Before(g.leaveBy(l.BatchWaitTimeout)) {
		return false
	}
	g.findUrgent() // here, and not whenever a query leaves: the group is small
	return !now.Before(g.leaveBy(l.BatchWaitTimeout))
}

// next returns the group that leaves now. If none does, it returns nil and the
// moment to ask again, which is zero when nothing waits.
func (w *queue[In, Out]) next(now time.Time, l Limits) (*group[In, Out], time.Time) {
	if w.oldest == nil {
		return nil, time.Time{}
	}
	if l.BatchWaitTimeout <= 0 {
		return w.oldest.group, time.Time{}
	}
	// A hold is in force: of the groups that are ready, the one with the
	// oldest query. This runs once a batch, not once a query.
	var ready *group[In, Out]
	var again time.Time
	for g := range w.waiting {
		if g.ready(now, l) {
			if ready == nil || g.oldest.seq < ready.oldest.seq {
				ready = g
			}
		} else if by := g.leaveBy(l.BatchWaitTimeout); again.IsZero() || by.Before(again) {
			again = by
		}
	}
	return ready, again
}

// take removes the group's next batch from the queue and says why it has the
// size it has. Only a query admitted before the maximum was lowered below its
// cost can exceed it; it then goes alone. The batch is laid out in batch, as far
// as that has room.
func (w *queue[In, Out]) take(g *group[In, Out], now time.Time, l Limits, batch []*Query[In, Out]) ([]*Query[In, Out], Reason) {
	held := l.BatchWaitTimeout > 0
	hurried := held && now.Before(g.oldest.arrived.Add(l.BatchWaitTimeout))
	batch = slices.Grow(batch[:0], min(g.len, l.MaxBatchSize))
	cost := 0
	for q := g.oldest; q != nil; q = g.oldest {
		if cost > 0 && cost+q.cost > l.MaxBatchSize {
			return batch, Cost
		}
		w.remove(q)
		batch = append(batch, q)
		if cost += q.cost; cost >= l.MaxBatchSize {
			return batch, Full
		}
	}
	switch {
	case hurried:
		return batch, Deadline
	case held:
		return batch, Timeout
	case w.len > 0:
		return batch, Key
	}
	return batch, Free
}
