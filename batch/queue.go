package batch

import (
	"slices"
	"time"
)

// queue holds the queries that wait, in order of arrival, and again by group and in
// it by lane. The query that leaves first of all names the group that leaves next. As
// long as no query has a caller's name or a priority, that is the oldest: then the
// choice of a group is fair and takes no search. It is not safe for concurrent use;
// the Batcher's mutex guards it.
type queue[In, Out any] struct {
	oldest, newest *Query[In, Out]
	keyless        [origins]group[In, Out]   // of the queries whose key is empty, by origin: most have no other
	groups         map[Group]*group[In, Out] // of the others; none is empty
	spare          *group[In, Out]           // the last emptied group, kept for the next arrival
	len, cost      int
	bytes          int64
	seq            uint64 // of the newest arrival

	isolate   bool // callers do not share batches
	weights   map[string]float64
	anonymous flow             // of the queries without a caller's name
	flows     map[string]*flow // of the others
	sweepAt   int              // as many flows make it worth to look for those that can be forgotten
	lanes     map[laneKey[In, Out]]*lane[In, Out]
	spareLane *lane[In, Out]  // the last that was emptied
	mixed     int             // queries that are in no plain lane
	levels    [levels]int     // what the queries of each level cost
	served    [levels]float64 // what the caller had got whose query left last, by level
	patience  int
	passed    int            // batches in a row that left the oldest query behind for others of a higher level
	heads     heads[In, Out] // of a walk through an order
}

// group is the queries of one key that wait.
type group[In, Out any] struct {
	key       Group
	plain     lane[In, Out]    // without a caller's name, of priority 0
	lanes     []*lane[In, Out] // the others; none is empty
	len, cost int
	// urgent is the earliest moment at which a deadline in the group ends a
	// hold; zero means none does. It may be that of a query that has left.
	urgent time.Time
}

func (w *queue[In, Out]) push(q *Query[In, Out], key Group) *group[In, Out] {
	w.seq++
	q.seq = w.seq
	g := w.group(w.keyOf(q, key))
	l := w.lane(q, g)
	if of := &l.flow.levels[l.level]; of.len == 0 {
		of.pass = max(of.pass, w.served[l.level])
	}
	w.insert(q, l, w.newest, l.newest)
	return g
}

// putBack puts a query that had left back into its old place.
func (w *queue[In, Out]) putBack(q *Query[In, Out]) {
	l := w.place(q)
	w.unserve(q)
	l.group.findUrgent()
}

// keyOf is what may share a batch with q, by what its key says apart from the caller.
func (w *queue[In, Out]) keyOf(q *Query[In, Out], key Group) Group {
	if key.Caller = ""; w.isolate {
		key.Caller = q.Caller
	}
	return key
}

// place puts a query where it belongs by its age.
func (w *queue[In, Out]) place(q *Query[In, Out]) *lane[In, Out] {
	l := w.lane(q, w.group(w.keyOf(q, q.key)))
	after, mate := (*Query[In, Out])(nil), (*Query[In, Out])(nil)
	for next := w.oldest; next != nil && next.seq < q.seq; next = next.next {
		after = next
	}
	for next := l.oldest; next != nil && next.seq < q.seq; next = next.nextMate {
		mate = next
	}
	w.insert(q, l, after, mate)
	return l
}

// separate has callers share batches, or not, from now on.
func (w *queue[In, Out]) separate(callers bool) {
	w.isolate = callers
	for q := w.oldest; q != nil; {
		next := q.next
		w.remove(q)
		w.place(q).group.hurry(q)
		q = next
	}
}

// group returns the group of a key, which may be new and empty.
func (w *queue[In, Out]) group(key Group) *group[In, Out] {
	if key.Key == "" && key.Caller == "" {
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
		if g := &w.keyless[i]; g.len > 0 && !yield(g) {
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
// its lane behind mate; nil stands for the front.
func (w *queue[In, Out]) insert(q *Query[In, Out], l *lane[In, Out], after, mate *Query[In, Out]) {
	g := l.group
	q.group, q.lane, q.key = g, l, g.key
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
		q.nextMate, l.oldest = l.oldest, q
	} else {
		q.nextMate, mate.nextMate = mate.nextMate, q
	}
	if q.nextMate == nil {
		l.newest = q
	} else {
		q.nextMate.prevMate = q
	}
	g.len++
	g.cost += q.cost
	w.book(q, 1)
}

func (w *queue[In, Out]) remove(q *Query[In, Out]) {
	g, l := q.group, q.lane
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
		l.oldest = q.nextMate
	} else {
		q.prevMate.nextMate = q.nextMate
	}
	if q.nextMate == nil {
		l.newest = q.prevMate
	} else {
		q.nextMate.prevMate = q.prevMate
	}
	w.book(q, -1)
	q.group, q.lane, q.prev, q.next, q.prevMate, q.nextMate = nil, nil, nil, nil, nil, nil
	g.len--
	g.cost -= q.cost
	if l.oldest == nil {
		w.forgetLane(l)
	}
	if g.len == 0 {
		w.forget(g)
	}
}

// forget takes an empty group off the queue.
func (w *queue[In, Out]) forget(g *group[In, Out]) {
	g.urgent = time.Time{}
	if g.key.Key == "" && g.key.Caller == "" {
		return
	}
	delete(w.groups, g.key)
	*g = group[In, Out]{lanes: g.lanes[:0]}
	w.spare = g
}

// hurry notes the moment at which q's deadline ends a hold: a hold may use up
// half of the time that the query had on arrival; the other half is for
// computing it.
func (g *group[In, Out]) hurry(q *Query[In, Out]) {
	if deadline := q.due; !deadline.IsZero() {
		by := q.arrived.Add(deadline.Sub(q.arrived) / 2)
		if g.urgent.IsZero() || by.Before(g.urgent) {
			g.urgent = by
		}
	}
}

// findUrgent sets urgent from the queries that still wait.
func (g *group[In, Out]) findUrgent() {
	g.urgent = time.Time{}
	for l := range g.each {
		for q := l.oldest; q != nil; q = q.nextMate {
			g.hurry(q)
		}
	}
}

// leaveBy is the moment at which a hold of the group ends.
func (g *group[In, Out]) leaveBy(hold time.Duration) time.Time {
	by := g.oldest().arrived.Add(hold)
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
		return w.first().query.group, time.Time{}
	}
	// A hold is in force: of the groups that are ready, the one whose query
	// leaves first. This runs once a batch, not once a query.
	var ready *group[In, Out]
	var again time.Time
	var best head[In, Out]
	favoured := w.favoured()
	for g := range w.waiting {
		if g.ready(now, l) {
			if h := g.first(favoured); ready == nil || before(h, best, favoured) {
				ready, best = g, h
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
	hurried := held && now.Before(g.oldest().arrived.Add(l.BatchWaitTimeout))
	batch = slices.Grow(batch[:0], min(g.len, l.MaxBatchSize))
	cost, order := 0, w.order(g)
	for q := order.next(); q != nil; q = order.next() {
		if cost > 0 && cost+q.cost > l.MaxBatchSize {
			return batch, Cost
		}
		w.serve(q)
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

// pass notes whether the batch that was taken, which began with a query of the given
// level, left the oldest query behind for its priority.
func (w *queue[In, Out]) pass(elder *Query[In, Out], level int) {
	if w.oldest == elder && elder.lane.level < level {
		w.passed++
	} else {
		w.passed = 0
	}
}
