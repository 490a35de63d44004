package batch

import (
	"container/heap"
	"math"
)

// levels is the number of priorities, and usual the level of priority 0.
const (
	levels = MaxPriority - MinPriority + 1
	usual  = -MinPriority
)

// levelOf is the level of a priority, from 0.
func levelOf(priority int) int { return max(MinPriority, min(MaxPriority, priority)) - MinPriority }

// lane is the queries of one group, caller and priority that wait, in order of
// arrival: none of them ever leaves before an older one.
type lane[In, Out any] struct {
	laneKey[In, Out]
	oldest, newest *Query[In, Out]
	place          int // in the group's lanes
}

type laneKey[In, Out any] struct {
	group *group[In, Out]
	flow  *flow
	level int
}

// flow is what a caller has waiting and has got, by level. Among the callers of a
// level the one leaves next that has got least, in cost divided by its weight: stride
// scheduling (Waldspurger and Weihl, Stride Scheduling, 1995), which is start-time
// fair queueing (Goyal, Vin and Cheng, SIGCOMM 1996) with tags on the flows, so that
// queries which leave without an answer leave no gaps. Who had nothing waiting begins
// level with whoever was served last: nobody saves up for later, and nobody pays for
// what was free.
type flow struct {
	name   string
	weight float64
	levels [levels]struct {
		pass  float64 // what it has got, as far as it counts
		len   int
		cost  int
		bytes int64
	}
}

// waits reports whether anything of the caller's waits.
func (f *flow) waits() bool {
	for l := range f.levels {
		if f.levels[l].len > 0 {
			return true
		}
	}
	return false
}

// flow returns what is known of a caller.
func (w *queue[In, Out]) flow(caller string) *flow {
	if caller == "" {
		return &w.anonymous
	}
	f := w.flows[caller]
	if f == nil {
		if len(w.flows) >= w.sweepAt {
			w.sweep()
		}
		f = &flow{name: caller, weight: w.weight(caller)}
		for l := range f.levels {
			f.levels[l].pass = w.served[l]
		}
		w.flows[caller] = f
	}
	return f
}

// weight is a caller's by the limits: its own, that of "*", or 1.
func (w *queue[In, Out]) weight(caller string) float64 {
	weight, ok := w.weights[caller]
	if !ok {
		weight, ok = w.weights["*"]
	}
	if !ok || !(weight > 0) || math.IsInf(weight, 0) {
		return 1
	}
	return weight
}

// weigh sets the weights of callers.
func (w *queue[In, Out]) weigh(weights map[string]float64) {
	w.weights = weights
	w.anonymous.weight = w.weight("")
	for _, f := range w.flows {
		f.weight = w.weight(f.name)
	}
}

// sweep forgets callers of whom nothing waits and who have no more than others had
// when they were last served. That they had a little more is remembered for as long
// as others wait, so that whoever has one query at a time gets no larger share.
func (w *queue[In, Out]) sweep() {
	for name, f := range w.flows {
		if f.waits() {
			continue
		}
		ahead := false
		for l := range f.levels {
			ahead = ahead || f.levels[l].pass > w.served[l] && w.levels[l] > 0
		}
		if !ahead {
			delete(w.flows, name)
		}
	}
	w.sweepAt = max(64, 2*len(w.flows))
}

// lane returns the lane of a query in a group, which may be new and empty. The
// queries without a caller's name and of priority 0 have one that is always there.
func (w *queue[In, Out]) lane(q *Query[In, Out], g *group[In, Out]) *lane[In, Out] {
	level := levelOf(q.Priority)
	if q.Caller == "" && level == usual {
		g.plain.laneKey = laneKey[In, Out]{g, &w.anonymous, usual}
		return &g.plain
	}
	key := laneKey[In, Out]{g, w.flow(q.Caller), level}
	l := w.lanes[key]
	if l == nil {
		if l, w.spareLane = w.spareLane, nil; l == nil {
			l = new(lane[In, Out])
		}
		l.laneKey, l.place = key, len(g.lanes)
		w.lanes[key], g.lanes = l, append(g.lanes, l)
	}
	return l
}

// each iterates over the group's lanes that are not empty.
func (g *group[In, Out]) each(yield func(*lane[In, Out]) bool) {
	if g.plain.oldest != nil && !yield(&g.plain) {
		return
	}
	for _, l := range g.lanes {
		if !yield(l) {
			return
		}
	}
}

// forgetLane takes an empty lane off its group.
func (w *queue[In, Out]) forgetLane(l *lane[In, Out]) {
	if l == &l.group.plain {
		return
	}
	last := len(l.group.lanes) - 1
	l.group.lanes[l.place] = l.group.lanes[last]
	l.group.lanes[l.place].place = l.place
	l.group.lanes[last] = nil
	l.group.lanes = l.group.lanes[:last]
	delete(w.lanes, l.laneKey)
	*l = lane[In, Out]{}
	w.spareLane = l
}

// book counts a query in, or with a sign of -1 out, of what its caller has waiting.
func (w *queue[In, Out]) book(q *Query[In, Out], sign int) {
	l := &q.lane.flow.levels[q.lane.level]
	l.len += sign
	l.cost += sign * q.cost
	l.bytes += int64(sign) * q.bytes
	w.levels[q.lane.level] += sign * q.cost
	if q.lane != &q.lane.group.plain {
		w.mixed += sign
	}
	w.len += sign
	w.cost += sign * q.cost
	w.bytes += int64(sign) * q.bytes
}

// serve counts what a query gets that leaves for a replica.
func (w *queue[In, Out]) serve(q *Query[In, Out]) {
	f, level := q.lane.flow, q.lane.level
	pass := &f.levels[level].pass
	w.served[level] = max(w.served[level], *pass)
	*pass += float64(q.cost) / f.weight
}

// unserve takes that back.
func (w *queue[In, Out]) unserve(q *Query[In, Out]) {
	f := q.lane.flow
	f.levels[q.lane.level].pass -= float64(q.cost) / f.weight
}

// head is the oldest query of a lane that has not left on a walk through an order.
type head[In, Out any] struct {
	query *Query[In, Out]
	level int
	pass  float64
}

// before reports whether a leaves before b: by level, by what their callers have got,
// by age. A level that is favoured comes before all others.
func before[In, Out any](a, b head[In, Out], favoured int) bool {
	switch {
	case a.level != b.level:
		return a.level == favoured || b.level != favoured && a.level > b.level
	case a.pass != b.pass:
		return a.pass < b.pass
	}
	return a.query.seq < b.query.seq
}

func (l *lane[In, Out]) head() head[In, Out] {
	return head[In, Out]{l.oldest, l.level, l.flow.levels[l.level].pass}
}

// order walks through the queries of a group as they leave. The query that it gave
// last may be removed from the queue meanwhile. The queue has room for one walk.
type order[In, Out any] struct {
	plain *Query[In, Out] // the next, where there is but one lane
	heads *heads[In, Out] // of the lanes, where there are more
}

// heads is a heap of the lanes' heads.
type heads[In, Out any] struct {
	all      []head[In, Out]
	favoured int
}

// Len implements heap.Interface.
func (h *heads[In, Out]) Len() int { return len(h.all) }

// Less implements heap.Interface.
func (h *heads[In, Out]) Less(i, j int) bool { return before(h.all[i], h.all[j], h.favoured) }

// Swap implements heap.Interface.
func (h *heads[In, Out]) Swap(i, j int) { h.all[i], h.all[j] = h.all[j], h.all[i] }

// Push implements heap.Interface.
func (h *heads[In, Out]) Push(x any) { h.all = append(h.all, x.(head[In, Out])) }

// Pop implements heap.Interface.
func (h *heads[In, Out]) Pop() any {
	last := len(h.all) - 1
	h.all[last] = head[In, Out]{}
	h.all = h.all[:last]
	return nil
}

func (w *queue[In, Out]) order(g *group[In, Out]) order[In, Out] {
	if len(g.lanes) == 0 {
		return order[In, Out]{plain: g.plain.oldest}
	}
	h := &w.heads
	clear(h.all)
	h.all, h.favoured = h.all[:0], w.favoured()
	for l := range g.each {
		h.all = append(h.all, l.head())
	}
	heap.Init(h)
	return order[In, Out]{heads: h}
}

// next returns the next query, nil after the last.
func (o *order[In, Out]) next() (q *Query[In, Out]) {
	if o.heads == nil {
		if q = o.plain; q != nil {
			o.plain = q.nextMate
		}
		return q
	}
	if len(o.heads.all) == 0 {
		return nil
	}
	first := &o.heads.all[0]
	q = first.query
	if first.query = q.nextMate; first.query == nil {
		heap.Pop(o.heads)
		return q
	}
	first.pass += float64(q.cost) / q.lane.flow.weight
	heap.Fix(o.heads, 0)
	return q
}

// patience is how many batches in a row may begin with queries of a higher priority
// than that of the oldest query and leave it behind: the next one begins with its
// priority, so that each has a share, however small, and none starves.
const patience = 15

// favoured is the level that the next batch begins with, if not with the highest; -1
// for none.
func (w *queue[In, Out]) favoured() int {
	if w.passed < w.patience || w.oldest == nil {
		return -1
	}
	return w.oldest.lane.level
}

// first is the head of the query that leaves first of all.
func (w *queue[In, Out]) first() head[In, Out] {
	if w.mixed == 0 {
		return w.oldest.lane.head()
	}
	var best head[In, Out]
	favoured := w.favoured()
	for g := range w.waiting {
		if h := g.first(favoured); best.query == nil || before(h, best, favoured) {
			best = h
		}
	}
	return best
}

// first is the head of the query of the group that leaves first.
func (g *group[In, Out]) first(favoured int) (best head[In, Out]) {
	for l := range g.each {
		if h := l.head(); best.query == nil || before(h, best, favoured) {
			best = h
		}
	}
	return best
}

// oldest is the query of the group that waits longest.
func (g *group[In, Out]) oldest() (oldest *Query[In, Out]) {
	if len(g.lanes) == 0 {
		return g.plain.oldest
	}
	for l := range g.each {
		if oldest == nil || l.oldest.seq < oldest.seq {
			oldest = l.oldest
		}
	}
	return oldest
}
