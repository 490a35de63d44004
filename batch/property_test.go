package batch_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/shoalserve/shoal/batch"
)

// reference is the batcher as one would explain it: the queries that wait, in
// order of arrival, and the rule by which they leave.
type reference struct {
	limits   batch.Limits
	now      time.Time
	draining bool
	gaveUp   bool // a drain had no more time
	waiting  []*ask
	held     *ask    // one of the group for which the policy keeps a free replica waiting; nil for none
	seats    []*seat // the attached replicas
	failures []*failure
	lost     int     // replicas that died and were not replaced
	starts   []start // all batches that left, in order
	stats    batch.Stats

	got    [batch.Levels]map[string]float64 // what each caller has got, by level
	served [batch.Levels]float64            // what the caller had got that was served last
	passed int                              // batches in a row that left the oldest query behind

	above time.Time // since when the oldest query has waited longer than the target; zero if it has not
}

// failure is a batch that failed as a whole: its queries are computed again in
// pieces.
type failure struct {
	pieces  []*piece // those that wait
	running bool
	passed  bool // a piece did not fail
	failed  int  // pieces that failed before
	alone   int  // of them, those of one query
	calls   int  // left
	deaths  int  // left
	died    int
}

type piece struct {
	failure *failure
	asks    []*ask
	half    *piece // that must be to blame if this one passes
	blamed  bool
}

func (f *failure) split(asks []*ask) {
	second := &piece{failure: f, asks: asks[len(asks)/2:]}
	if len(asks) > 1 {
		f.pieces = append(f.pieces, &piece{failure: f, asks: slices.Clone(asks[:len(asks)/2]), half: second})
	}
	f.pieces = append(f.pieces, second)
}

// differ reports whether queries are not all of one caller.
func differ(asks []*ask) bool {
	return slices.ContainsFunc(asks, func(q *ask) bool { return q.caller != asks[0].caller })
}

func (f *failure) asks() (all []*ask) {
	for _, p := range f.pieces {
		all = append(all, p.asks...)
	}
	return all
}

func (f *failure) remove(q *ask) {
	for _, p := range f.pieces {
		p.asks = slices.DeleteFunc(slices.Clone(p.asks), func(other *ask) bool { return other == q })
	}
	f.pieces = slices.DeleteFunc(f.pieces, func(p *piece) bool { return len(p.asks) == 0 })
}

// next is the piece that is computed next.
func (f *failure) next(l batch.Limits) *piece {
	for len(f.pieces) > 0 {
		if !f.passed && f.failed > 1 && f.alone < 3 { // is the model broken?
			from := f.pieces[min(f.alone, len(f.pieces)-1)]
			from.half = nil
			for _, p := range f.pieces {
				if p.half == from {
					p.half = nil
				}
			}
			q := from.asks[0]
			f.remove(q)
			return &piece{failure: f, asks: []*ask{q}}
		}
		p := f.pieces[0]
		f.pieces = f.pieces[1:]
		if len(p.asks) == 1 || !p.blamed && cost(p.asks) <= l.MaxBatchSize && (!l.IsolateCallers || !differ(p.asks)) {
			return p
		}
		f.split(p.asks)
	}
	return nil
}

type start struct {
	ids    string
	seat   *seat
	reason batch.Reason
	left   time.Time
}

// seat is a replica: the batches it has, the first slots of them begun.
type seat struct {
	name, slots, ahead int
	yields             bool // gives batches back when it is asked to
	batches            []*load
}

// load is a batch that a replica has.
type load struct {
	asks  []*ask
	begun time.Time
	asked bool
	piece *piece // nil for a batch from the queue
}

func (s *seat) free() int { return max(0, s.slots-len(s.batches)) }

func (s *seat) room() int { return s.slots + s.ahead - len(s.batches) }

func (s *seat) put(l *load, now time.Time) {
	s.batches = append(s.batches, l)
	s.begin(now)
}

func (s *seat) begin(now time.Time) {
	for _, l := range s.batches[:min(s.slots, len(s.batches))] {
		if l.begun.IsZero() {
			l.begun = now
		}
	}
}

// release takes the batch with the given members off the seat and says when it
// had begun.
func (s *seat) release(members string, now time.Time) (l *load, begun time.Time) {
	i := slices.IndexFunc(s.batches, func(l *load) bool { return fmt.Sprint(ids(l.asks)) == members })
	l = s.batches[i]
	if begun = s.batches[i].begun; begun.IsZero() {
		begun = now
	}
	s.batches = slices.Delete(s.batches, i, i+1)
	s.begin(now)
	return l, begun
}

// ask is one query: what it is, and what must become of it.
type ask struct {
	id      int
	origin  batch.Origin
	key     string
	caller  string
	level   int
	cost    int
	size    int64
	ctx     *virtualContext // nil for none
	due     time.Time       // what the query itself says
	arrived time.Time

	attempts, deaths int
	gone             bool // withdrawn while it is with a replica

	query *query
	last  error   // of a batch that failed
	seen  []error // the errors with which Done was called, nil for an answer
	wants []error // the same, as the reference has it
}

func (r *reference) dispatch() {
	for {
		s := r.freest()
		if s != nil && r.dispatchPiece(s) {
			continue
		}
		if s == nil && len(r.failures) > 0 {
			return
		}
		i := slices.IndexFunc(r.groups(), r.ready)
		if i < 0 {
			if s != nil && len(r.waiting) > 0 && r.limits.BatchWaitTimeout == 0 {
				r.held = r.groups()[0][0]
			}
			if s == nil || !r.recall() {
				return
			}
			continue
		}
		group := r.groups()[i]
		if s == nil {
			if s = r.soonest(); s == nil || cost(group) < r.limits.MaxBatchSize {
				return
			}
		}
		if r.dropDead(group) {
			continue
		}
		batch, reason := r.fill(group)
		elder := r.waiting[0]
		r.serve(batch)
		r.take(batch...)
		if r.passed++; len(r.waiting) == 0 || r.waiting[0] != elder || elder.level >= batch[0].level {
			r.passed = 0
		}
		if s.free() == 0 {
			r.stats.Ahead++
		}
		r.held = nil
		s.put(&load{asks: batch}, r.now)
		r.stats.Running += len(batch)
		r.starts = append(r.starts, start{fmt.Sprint(ids(batch)), s, reason, r.now})
	}
}

// dispatchPiece gives a piece of a batch that failed to a free replica.
func (r *reference) dispatchPiece(s *seat) bool {
	for _, f := range slices.Clone(r.failures) {
		if f.running || f.died > 1 && len(r.seats) == 1 && r.lost > 0 && !r.draining {
			continue
		}
		for _, q := range f.asks() {
			if err := q.over(r.now); err != nil {
				f.remove(q)
				q.wants = append(q.wants, err)
				r.stats.Dropped++
			}
		}
		if f.calls == 0 || f.deaths == 0 || !f.passed && f.alone == 3 && len(f.asks()) > 3 {
			for _, q := range f.asks() {
				q.wants = append(q.wants, q.last)
				r.stats.Failed++
			}
			f.pieces = nil
		}
		p := f.next(r.limits)
		if p == nil {
			r.end(f)
			continue
		}
		f.running = true
		f.calls--
		s.put(&load{asks: p.asks, piece: p}, r.now)
		r.stats.Running += len(p.asks)
		r.starts = append(r.starts, start{fmt.Sprint(ids(p.asks)), s, batch.Retry, r.now})
		return true
	}
	return false
}

// end forgets a failure if nothing is left of it.
func (r *reference) end(f *failure) {
	if len(f.pieces) == 0 && !f.running {
		r.failures = slices.DeleteFunc(r.failures, func(other *failure) bool { return other == f })
	}
}

// fail is what becomes of a batch that failed as a whole.
func (r *reference) fail(l *load, err error, how string) {
	n, f := len(l.asks), (*failure)(nil)
	died := how == "lost" || how == "interrupted"
	if l.piece != nil {
		f = l.piece.failure
		if !f.passed {
			f.failed++
			if n == 1 {
				f.alone++
			}
		}
	} else if r.limits.OnError == batch.Isolate && !r.gaveUp && how != "interrupted" && (n > 1 || how == "lost") {
		log := int(math.Ceil(math.Log2(float64(n))))
		f = &failure{calls: max(1, 8*log), deaths: 2*max(2, log+1) + 1}
		r.failures = append(r.failures, f)
		r.stats.Isolated++
	}
	if f != nil {
		f.running = false
		if died {
			f.deaths--
			f.died++
		}
	}
	var again []*ask
	for _, q := range l.asks {
		q.attempts++
		if died {
			q.deaths++
		}
		q.last = err
		switch {
		case f == nil || r.gaveUp || q.gone || q.over(r.now) != nil || how == "interrupted" || n == 1 && how != "lost":
			q.wants = append(q.wants, err)
			r.stats.Failed++
		case n == 1 && q.deaths > 1:
			q.wants = append(q.wants, &batch.LostError{})
			r.stats.Failed++
			r.stats.Poison++
		default:
			again = append(again, q)
		}
	}
	if len(again) > 0 {
		f.split(again)
	}
	if f != nil {
		r.end(f)
	}
}

// pass is what follows from a piece that did not fail as a whole.
func (r *reference) pass(p *piece) {
	p.failure.running, p.failure.passed = false, true
	if p.half != nil {
		p.half.blamed = true
	}
	r.end(p.failure)
}

// recall asks for a batch that waits at a busy replica.
func (r *reference) recall() bool {
	for _, s := range r.seats {
		if len(s.batches) <= s.slots {
			continue
		}
		if last := s.batches[len(s.batches)-1]; !last.asked {
			last.asked = true
			if s.yields {
				r.giveBack(s, last)
			}
			return s.yields
		}
	}
	return false
}

// leave asks a seat that is detached for all that it has not begun.
func (r *reference) leave(s *seat) {
	for i := len(s.batches) - 1; i >= s.slots; i-- {
		if l := s.batches[i]; s.yields {
			r.giveBack(s, l)
			r.dispatch()
		}
	}
}

// giveBack puts the queries of a batch back where they were.
func (r *reference) giveBack(s *seat, l *load) {
	s.release(fmt.Sprint(ids(l.asks)), r.now)
	r.stats.Returned++
	r.stats.Running -= len(l.asks)
	var back []*ask
	for _, q := range l.asks {
		switch {
		case r.gaveUp:
			q.wants = append(q.wants, batch.ErrDraining)
		case q.gone && q.dead():
			q.wants = append(q.wants, q.ctx.Err())
		case q.gone:
			q.wants = append(q.wants, context.Canceled)
		default:
			back = append(back, q)
			continue
		}
		r.stats.Dropped++
	}
	if p := l.piece; p != nil {
		p.failure.running = false
		p.failure.calls++
		if p.asks = back; len(back) > 0 {
			p.failure.pieces = slices.Insert(p.failure.pieces, 0, p)
		}
		r.end(p.failure)
		return
	}
	for _, q := range l.asks {
		r.got[q.level][q.caller] -= float64(q.cost) / r.weight(q.caller)
	}
	r.waiting = append(r.waiting, back...)
	slices.SortFunc(r.waiting, func(a, b *ask) int { return a.id - b.id })
}

// weight is a caller's.
func (r *reference) weight(caller string) float64 {
	for _, name := range []string{caller, "*"} {
		if weight, ok := r.limits.CallerWeights[name]; ok {
			return weight
		}
	}
	return 1
}

// arrive notes that a caller without a query of a level has one.
func (r *reference) arrive(q *ask) {
	if !slices.ContainsFunc(r.waiting, func(w *ask) bool { return w.level == q.level && w.caller == q.caller }) {
		r.got[q.level][q.caller] = max(r.got[q.level][q.caller], r.served[q.level])
	}
	r.waiting = append(r.waiting, q)
	r.stats.Admitted++
}

// serve notes what callers get with a batch.
func (r *reference) serve(asks []*ask) {
	for _, q := range asks {
		r.served[q.level] = max(r.served[q.level], r.got[q.level][q.caller])
		r.got[q.level][q.caller] += float64(q.cost) / r.weight(q.caller)
	}
}

// before is the rule by which queries leave: first the level whose turn it is, then
// the higher one; in a level the caller that has got less for its weight; then the
// older query.
func (r *reference) before(a, b *ask, got func(*ask) float64) bool {
	turn := -1
	if r.passed >= testPatience {
		turn = r.waiting[0].level
	}
	switch {
	case a.level != b.level:
		return a.level == turn || b.level != turn && a.level > b.level
	case got(a) != got(b):
		return got(a) < got(b)
	}
	return a.id < b.id
}

// inOrder are the queries of a group as they leave.
func (r *reference) inOrder(group []*ask) (order []*ask) {
	rest, more := slices.Clone(group), map[string]float64{}
	of := func(q *ask) string { return fmt.Sprint(q.level, q.caller) }
	got := func(q *ask) float64 {
		got := r.got[q.level][q.caller]
		if more, ok := more[of(q)]; ok {
			got = more
		}
		return got
	}
	for len(rest) > 0 {
		first := rest[0]
		for _, q := range rest {
			if r.before(q, first, got) {
				first = q
			}
		}
		rest = slices.DeleteFunc(rest, func(q *ask) bool { return q == first })
		order = append(order, first)
		more[of(first)] = got(first) + float64(first.cost)/r.weight(first.caller)
	}
	return order
}

const testPatience = 3

// groups are the queries that may share a batch, the group first whose query leaves
// first; in a group, in order of arrival.
func (r *reference) groups() (groups [][]*ask) {
next:
	for _, q := range r.waiting {
		for i, g := range groups {
			if g[0].origin == q.origin && g[0].key == q.key && (!r.limits.IsolateCallers || g[0].caller == q.caller) {
				groups[i] = append(g, q)
				continue next
			}
		}
		groups = append(groups, []*ask{q})
	}
	got := func(q *ask) float64 { return r.got[q.level][q.caller] }
	slices.SortFunc(groups, func(a, b []*ask) int {
		if r.before(r.inOrder(a)[0], r.inOrder(b)[0], got) {
			return -1
		}
		return 1
	})
	return groups
}

// hold is how long a group may be held: what the limits say, or without them the
// departure policy, which holds while no other group waits.
func (r *reference) hold() time.Duration {
	switch {
	case r.draining:
		return 0
	case r.limits.BatchWaitTimeout > 0:
		return r.limits.BatchWaitTimeout
	case r.policy() && len(r.groups()) == 1 && len(r.waiting) < enough:
		return policyHold
	}
	return 0
}

func (r *reference) isHeld(group []*ask) bool {
	return r.held != nil && r.held.origin == group[0].origin && r.held.key == group[0].key && (!r.limits.IsolateCallers || r.held.caller == group[0].caller)
}

// policy reports whether the departure policy is in force.
func (r *reference) policy() bool { return !r.limits.LeaveAtOnce && r.limits.MaxBatchSize > 1 }

const (
	policyHold = 9 * time.Millisecond
	enough     = 4
)

// stubborn is a departure policy that is easily told: it holds for policyHold
// from the arrival of the oldest query, or until there are enough.
type stubborn struct{}

func (stubborn) Arrived(time.Time, batch.Group)     {}
func (stubborn) Answered(time.Time, batch.Answered) {}
func (stubborn) Left(time.Time, batch.Waiting)      {}
func (stubborn) Hold(now time.Time, w batch.Waiting) time.Time {
	if w.Queries >= enough {
		return now
	}
	return w.Oldest.Add(policyHold)
}

func (r *reference) ready(group []*ask) bool {
	return r.hold() == 0 || cost(group) >= r.limits.MaxBatchSize || !r.now.Before(r.leaveBy(group))
}

func (r *reference) leaveBy(group []*ask) time.Time {
	by := group[0].arrived.Add(r.hold())
	for _, q := range group {
		if due := q.deadline(); !due.IsZero() {
			if half := q.arrived.Add(due.Sub(q.arrived) / 2); half.Before(by) {
				by = half
			}
		}
	}
	return by
}

func (r *reference) fill(group []*ask) ([]*ask, batch.Reason) {
	arrived := group[0].arrived
	group = r.inOrder(group)
	n := 1
	for n < len(group) && cost(group[:n+1]) <= r.limits.MaxBatchSize {
		n++
	}
	switch {
	case cost(group[:n]) >= r.limits.MaxBatchSize:
		return group[:n], batch.Full
	case n < len(group):
		return group[:n], batch.Cost
	case r.hold() > 0 && r.now.Before(arrived.Add(r.hold())) && (r.isHeld(group) || r.limits.BatchWaitTimeout > 0):
		return group, batch.Deadline
	case r.hold() > 0 && r.limits.BatchWaitTimeout > 0:
		return group, batch.Timeout
	case r.isHeld(group) && r.policy() && n == len(r.waiting):
		if r.draining {
			return group, batch.Drain
		}
		return group, batch.Hold
	case r.draining && r.limits.BatchWaitTimeout > 0:
		return group, batch.Drain
	case n < len(r.waiting):
		return group, batch.Key
	}
	return group, batch.Free
}

// dropDead drops what is dead in the group, as far as its next batch reaches.
func (r *reference) dropDead(group []*ask) bool {
	var dead, alive []*ask
	for _, q := range r.inOrder(group) {
		if cost(alive) >= r.limits.MaxBatchSize {
			break
		}
		if err := q.over(r.now); err != nil {
			dead = append(dead, q)
			q.wants = append(q.wants, err)
		} else {
			alive = append(alive, q)
		}
	}
	r.take(dead...)
	r.stats.Dropped += uint64(len(dead))
	return len(dead) > 0
}

func (r *reference) take(gone ...*ask) {
	r.waiting = slices.DeleteFunc(r.waiting, func(q *ask) bool { return slices.Contains(gone, q) })
	if !slices.ContainsFunc(r.groups(), r.isHeld) {
		r.held = nil
	}
}

func (r *reference) freest() (best *seat) {
	for _, s := range r.seats {
		if s.free() > 0 && (best == nil || s.free() > best.free()) {
			best = s
		}
	}
	return best
}

func (r *reference) soonest() (best *seat) {
	for _, s := range r.seats {
		if s.room() > 0 && (best == nil || s.batches[0].begun.Before(best.batches[0].begun)) {
			best = s
		}
	}
	return best
}

func (r *reference) advance(to time.Time) {
	for r.freest() != nil && len(r.waiting) > 0 {
		next := to.Add(1)
		for _, g := range r.groups() {
			if by := r.leaveBy(g); by.Before(next) {
				next = by
			}
		}
		if next.After(to) {
			break
		}
		r.now = next
		r.dispatch()
	}
	r.now = to
}

// admit is what Submit must return. Where it depends on the service times learned, which
// the reference does not know, it is what Submit did return.
func (r *reference) admit(q *ask, did error) error {
	switch {
	case q.dead():
		return q.ctx.Err()
	case r.draining:
		return batch.ErrDraining
	case q.cost > r.limits.MaxBatchSize:
		return &batch.TooLargeError{}
	case r.tooLong() && (r.stats.Batches < 4 || sameError(did, &batch.OverloadError{Reason: batch.QueueTime})):
		return &batch.OverloadError{Reason: batch.QueueTime}
	}
	if first := r.full(q); first != 0 && !r.makeRoom(q) {
		return &batch.OverloadError{Reason: first}
	}
	return nil
}

// tooLong reports whether queries have waited longer than the target for 100 ms, as far
// as it was looked at.
func (r *reference) tooLong() bool {
	target := r.limits.QueueTimeTarget
	if target == 0 || r.freest() != nil || len(r.seats) == 0 {
		return false
	}
	if len(r.waiting) == 0 || r.now.Sub(r.waiting[0].arrived) <= target {
		r.above = time.Time{}
		return false
	}
	if r.above.IsZero() {
		r.above = r.now
	}
	return r.now.Sub(r.above) >= 100*time.Millisecond
}

// full tells which bound one more query exceeds; 0 for none.
func (r *reference) full(q *ask) batch.Refusal {
	bytes := q.size
	for _, w := range r.waiting {
		bytes += w.size
	}
	switch {
	case len(r.waiting) == 0:
	case len(r.waiting) >= r.limits.MaxQueued:
		return batch.QueueFull
	case bytes > r.limits.MaxQueuedBytes:
		return batch.QueueBytes
	}
	return 0
}

// makeRoom evicts what q is to be preferred to, if that is enough.
func (r *reference) makeRoom(q *ask) bool {
	before, held := slices.Clone(r.waiting), r.held
	var evicted []*ask
	for r.full(q) != 0 {
		victim := r.victim(q)
		if victim == nil {
			r.waiting, r.held = before, held
			return false
		}
		r.take(victim)
		evicted = append(evicted, victim)
	}
	for _, e := range evicted {
		e.wants = append(e.wants, &batch.OverloadError{Reason: batch.Evicted})
		r.stats.Dropped++
		r.stats.Evicted++
	}
	return true
}

// victim is the newest query of the caller with most waiting, for its weight, of the
// lowest level.
func (r *reference) victim(q *ask) (victim *ask) {
	lowest := slices.MinFunc(r.waiting, func(a, b *ask) int { return a.level - b.level }).level
	load := func(caller string) (load float64) {
		for _, w := range r.waiting {
			if w.level == lowest && w.caller == caller {
				load += float64(w.cost)
			}
		}
		return load / r.weight(caller)
	}
	for _, w := range r.waiting {
		if w.level == lowest && (victim == nil || load(w.caller) >= load(victim.caller)) {
			victim = w
		}
	}
	left := load(victim.caller) - float64(victim.cost)/r.weight(victim.caller)
	if lowest > q.level || lowest == q.level && (victim.caller == q.caller || left < load(q.caller)+float64(q.cost)/r.weight(q.caller)) {
		return nil
	}
	return victim
}

func cost(asks []*ask) (sum int) {
	for _, q := range asks {
		sum += q.cost
	}
	return sum
}

func ids(asks []*ask) (ids []int) {
	for _, q := range asks {
		ids = append(ids, q.id)
	}
	return ids
}

func (q *ask) dead() bool { return q.ctx != nil && q.ctx.Err() != nil }

// deadline is when the answer must be there; zero for whenever it comes.
func (q *ask) deadline() time.Time {
	if q.due.IsZero() && q.ctx != nil {
		return q.ctx.deadline
	}
	return q.due
}

// over is why the query is not computed any more; nil if it is.
func (q *ask) over(now time.Time) error {
	switch due := q.deadline(); {
	case q.dead():
		return q.ctx.Err()
	case !due.IsZero() && !now.Before(due):
		return context.DeadlineExceeded
	}
	return nil
}

type query = batch.Query[*ask, int]

func answerTo(id int) int { return 7*id + 1 }

var (
	errModel = errors.New("the model failed")
	errItem  = errors.New("the item failed")
	errLost  = errors.New("the replica ended")
)

// machine runs a Batcher and the reference beside each other.
type machine struct {
	*rapid.T
	batcher *batch.Batcher[*ask, int]
	clock   *virtualClock
	ref     reference

	asks    []*ask
	started []start
	running []*batch.Batch[*ask, int]
	members map[*batch.Batch[*ask, int]]*replica

	cancelled, cancels []uint64 // batches that everybody left: as told, and as it should be

	replicas []*replica
	leaving  []*replica // detached
	mixed    bool       // queries have callers and priorities

	drained chan error // set while Drain runs
	giveUp  context.CancelFunc
}

type replica struct {
	*batch.Replica[*ask, int]
	seat    *seat
	running int
	done    <-chan struct{} // set once detached
}

func TestBatcherDoesWhatTheReferenceDoes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &machine{T: t, mixed: rapid.Bool().Draw(t, "mixed"), clock: newVirtualClock(), members: map[*batch.Batch[*ask, int]]*replica{}}
		m.clock.ends = m.timer
		m.ref.now = m.clock.now
		m.ref.stats.Sizes = map[int]uint64{}
		m.ref.limits = m.drawLimits()
		for l := range m.ref.got {
			m.ref.got[l] = map[string]float64{}
		}
		m.batcher = batch.New(batch.Options[*ask, int]{
			Limits: m.ref.limits,
			Key:    func(q *ask) string { return q.key },
			Cost:   func(q *ask) int { return q.cost },
			Size:   func(q *ask) int64 { return q.size },
			Clock:  m.clock,

			Departure: stubborn{},
		})
		m.batcher.SetPatience(testPatience)
		t.Repeat(map[string]func(*rapid.T){
			"":         func(*rapid.T) { m.compare() },
			"submit":   func(*rapid.T) { m.submit() },
			"submit 2": func(*rapid.T) { m.submit(); m.submit() },
			"submit 8": func(*rapid.T) { m.submit8() },
			"cancel":   func(*rapid.T) { m.cancel() },
			"withdraw": func(*rapid.T) { m.withdraw() },
			"attach":   func(*rapid.T) { m.attach() },
			"detach":   func(*rapid.T) { m.detach() },
			"die":      func(*rapid.T) { m.die() },
			"finish":   func(*rapid.T) { m.finish() },
			"return":   func(*rapid.T) { m.giveBack() },
			"update":   func(*rapid.T) { m.update(m.drawLimits()) },
			"advance":  func(*rapid.T) { m.advance() },
			"drain":    func(*rapid.T) { m.drain() },
		})
		m.wrapUp()
	})
}

func (m *machine) drawLimits() batch.Limits {
	return batch.Limits{
		LeaveAtOnce:      rapid.Bool().Draw(m.T, "at once"),
		MaxBatchSize:     rapid.SampledFrom([]int{1, 2, 3, 4, 5, 8, 12}).Draw(m.T, "max"),
		BatchWaitTimeout: time.Duration(rapid.SampledFrom([]int{0, 0, 7, 20}).Draw(m.T, "hold")) * time.Millisecond,
		MaxQueued:        rapid.IntRange(1, 20).Draw(m.T, "queued"),
		MaxQueuedBytes:   int64(rapid.IntRange(50, 600).Draw(m.T, "bytes")),
		CallerWeights:    rapid.SampledFrom([]map[string]float64{nil, {"gold": 4}, {"*": 2, "": 0.5}}).Draw(m.T, "weights"),
		IsolateCallers:   rapid.IntRange(0, 3).Draw(m.T, "isolate") == 0,
		ComputeLate:      true,
		QueueTimeTarget:  time.Duration(rapid.SampledFrom([]int{0, 0, 1, 5}).Draw(m.T, "target")) * time.Millisecond,
		OnError:          rapid.SampledFrom([]batch.OnError{batch.Isolate, batch.Isolate, batch.FailAll}).Draw(m.T, "on error"),
	}
}

// submit8 submits queries that fill a batch, which takes long by chance.
func (m *machine) submit8() {
	for range 8 {
		m.ask(&ask{id: len(m.asks), origin: batch.API, key: "a", cost: 1, size: 1, arrived: m.clock.now, level: batch.LevelOf(0)}, 0)
	}
}

func (m *machine) submit() {
	q := &ask{
		id:      len(m.asks),
		origin:  batch.Origin(rapid.IntRange(0, 1).Draw(m.T, "origin")),
		key:     rapid.SampledFrom([]string{"a", "a", "b"}).Draw(m.T, "key"),
		cost:    rapid.SampledFrom([]int{1, 1, 1, 2, 3, 5}).Draw(m.T, "cost"),
		size:    int64(rapid.IntRange(0, 60).Draw(m.T, "size")),
		arrived: m.clock.now,
	}
	priority := 0
	if m.mixed {
		q.caller = rapid.SampledFrom([]string{"", "", "gold", "other"}).Draw(m.T, "caller")
		priority = rapid.SampledFrom([]int{0, 0, 1, -3, 99}).Draw(m.T, "priority")
	}
	q.level = batch.LevelOf(priority)
	if rapid.IntRange(0, 9).Draw(m.T, "due") == 0 {
		q.due = m.clock.now.Add(time.Duration(rapid.IntRange(1, 50).Draw(m.T, "due in")) * time.Millisecond)
	}
	switch rapid.IntRange(0, 5).Draw(m.T, "context") {
	case 0:
		q.ctx = &virtualContext{clock: m.clock, cancelled: true}
	case 1, 2:
		q.ctx = &virtualContext{clock: m.clock}
	case 3:
		within := time.Duration(rapid.IntRange(0, 50).Draw(m.T, "within")) * time.Millisecond
		q.ctx = &virtualContext{clock: m.clock, deadline: m.clock.now.Add(within)}
	}
	m.ask(q, priority)
}

func (m *machine) ask(q *ask, priority int) {
	q.query = &query{In: q, Origin: q.origin, Caller: q.caller, Priority: priority, Deadline: q.due}
	if q.ctx != nil {
		q.query.Context = q.ctx
	}
	q.query.Done = func(done *query) {
		q.seen = append(q.seen, done.Err)
		if done.Err == nil && done.Out != answerTo(q.id) {
			m.Fatalf("query %d got the answer %d, which is not its own", q.id, done.Out)
		}
	}
	err := m.batcher.Submit(q.query)
	want := m.ref.admit(q, err)
	if want == nil {
		m.asks = append(m.asks, q)
		m.ref.arrive(q)
		m.ref.dispatch()
	} else {
		m.ref.stats.Refused++
		reason := batch.Other
		if overload, ok := want.(*batch.OverloadError); ok {
			reason = overload.Reason
		}
		m.ref.stats.Refusals[reason]++
	}
	if !sameError(err, want) {
		m.Fatalf("submit of %+v: got %v, want %v", q, err, want)
	}
}

func (m *machine) cancel() {
	q := m.pick()
	if q.ctx != nil {
		q.ctx.cancelled = true
	}
}

func (m *machine) withdraw() {
	q := m.pick()
	want := slices.Contains(m.ref.waiting, q)
	if want {
		m.ref.take(q)
	}
	for _, f := range slices.Clone(m.ref.failures) {
		if slices.Contains(f.asks(), q) {
			want = true
			f.remove(q)
			m.ref.end(f)
		}
	}
	if want {
		m.ref.stats.Dropped++
	}
	for _, b := range m.running {
		if slices.Contains(b.Inputs(), q) && !q.gone {
			q.gone = true
			if !slices.ContainsFunc(b.Inputs(), func(q *ask) bool { return !q.gone }) {
				m.cancels = append(m.cancels, b.ID)
			}
		}
	}
	if m.ref.freest() == nil {
		m.ref.dispatch()
	}
	if got := m.batcher.Withdraw(q.query); got != want {
		m.Fatalf("withdraw of %d: got %v, want %v", q.id, got, want)
	}
}

// pick chooses one of the queries so far, the later ones more often.
func (m *machine) pick() *ask {
	if len(m.asks) == 0 {
		m.Skip("no queries")
	}
	return m.asks[len(m.asks)-1-rapid.IntRange(0, len(m.asks)-1).Draw(m.T, "query")]
}

func (m *machine) attach() {
	if len(m.replicas) == 3 {
		m.Skip("enough replicas")
	}
	slots := rapid.IntRange(1, 3).Draw(m.T, "slots")
	ahead := rapid.SampledFrom([]int{0, 1, 1, 2}).Draw(m.T, "ahead")
	r := &replica{seat: &seat{name: len(m.replicas) + len(m.leaving), slots: slots, ahead: ahead, yields: rapid.Bool().Draw(m.T, "yields")}}
	m.replicas = append(m.replicas, r)
	m.ref.seats = append(m.ref.seats, r.seat)
	m.ref.lost = max(0, m.ref.lost-1)
	m.ref.dispatch()
	r.Replica = m.batcher.AttachReplica(batch.ReplicaOptions[*ask, int]{
		Slots: slots, Ahead: ahead, Run: func(b *batch.Batch[*ask, int]) { m.run(r, b) }, Recall: m.recalled,
		Cancel: func(id uint64) { m.cancelled = append(m.cancelled, id) },
	})
}

// recalled is the replica's side of a recall.
func (m *machine) recalled(b *batch.Batch[*ask, int]) {
	if r := m.members[b]; r.seat.yields {
		m.forget(b)
		b.Return()
	}
}

// forget takes a batch off its replica.
func (m *machine) forget(b *batch.Batch[*ask, int]) {
	m.running = slices.DeleteFunc(m.running, func(other *batch.Batch[*ask, int]) bool { return other == b })
	m.members[b].running--
}

// giveBack is what a replica does that dies: it gives back what it had not begun.
func (m *machine) giveBack() {
	if len(m.running) == 0 {
		m.Skip("nothing runs")
	}
	m.giveBackOne(m.running[rapid.IntRange(0, len(m.running)-1).Draw(m.T, "batch")])
}

func (m *machine) giveBackOne(b *batch.Batch[*ask, int]) {
	s := m.members[b].seat
	i := slices.IndexFunc(s.batches, func(l *load) bool { return l.asks[0] == b.Queries[0].In })
	m.forget(b)
	m.ref.giveBack(s, s.batches[i])
	m.ref.dispatch()
	b.Return()
}

// die is what becomes of a replica that ends: it has no more batches, those that it
// had not begun go back, and the others are lost.
func (m *machine) die() {
	if len(m.replicas) == 0 {
		m.Skip("no replicas")
	}
	i := rapid.IntRange(0, len(m.replicas)-1).Draw(m.T, "replica")
	r := m.replicas[i]
	m.remove(i)
	lost := false
	for _, b := range slices.Clone(m.running) {
		switch {
		case m.members[b] != r:
		case b.Ahead && !m.hasBegun(b):
			m.giveBackOne(b)
		default:
			how := "lost"
			if !lost {
				lost = true
				m.ref.lost++
				how = rapid.SampledFrom([]string{"lost", "lost", "interrupted"}).Draw(m.T, "how")
			}
			m.answer(slices.Index(m.running, b), how)
		}
	}
}

func (m *machine) hasBegun(b *batch.Batch[*ask, int]) bool {
	s := m.members[b].seat
	i := slices.IndexFunc(s.batches, func(l *load) bool { return l.asks[0] == b.Queries[0].In })
	return i < s.slots
}

func (m *machine) detach() {
	if len(m.replicas) == 0 {
		m.Skip("no replicas")
	}
	m.remove(rapid.IntRange(0, len(m.replicas)-1).Draw(m.T, "replica"))
}

// remove detaches a replica.
func (m *machine) remove(i int) {
	r := m.replicas[i]
	m.replicas = slices.Delete(m.replicas, i, i+1)
	m.ref.seats = slices.Delete(m.ref.seats, i, i+1)
	m.leaving = append(m.leaving, r)
	m.ref.leave(r.seat)
	r.done = r.Detach()
}

// run is the replica's side; what it checks holds whatever the reference says.
func (m *machine) run(r *replica, b *batch.Batch[*ask, int]) {
	var members []*ask
	for _, q := range b.Queries {
		members = append(members, q.In)
		switch first := b.Queries[0].In; {
		case q.In.dead():
			m.Fatalf("query %d runs though its context has ended", q.In.id)
		case q.In.origin != first.origin || q.In.key != first.key || q.In.origin != b.Origin,
			m.ref.limits.IsolateCallers && q.In.caller != first.caller:
			m.Fatalf("queries %d and %d share a batch", first.id, q.In.id)
		}
	}
	for _, q := range members {
		same := slices.DeleteFunc(slices.Clone(members), func(o *ask) bool { return o.caller != q.caller || o.level != q.level })
		if !slices.IsSorted(ids(same)) {
			m.Fatalf("batch out of order: %v", ids(members))
		}
	}
	if cost(members) > m.batcher.Limits().MaxBatchSize && len(members) > 1 {
		m.Fatalf("batch too large: %v", ids(members))
	}
	if r.running++; r.running > r.seat.slots+r.seat.ahead {
		m.Fatalf("replica has %d batches in %d slots", r.running, r.seat.slots)
	}
	if ahead := r.running > r.seat.slots; b.Ahead != ahead || ahead && b.Reason != batch.Full && b.Reason != batch.Cost {
		m.Fatalf("batch %v, which left as %v, is number %d of a replica with %d slots: Ahead is %v", ids(members), b.Reason, r.running, r.seat.slots, b.Ahead)
	}
	m.running = append(m.running, b)
	m.members[b] = r
	m.started = append(m.started, start{fmt.Sprint(ids(members)), r.seat, b.Reason, b.Left})
}

func (m *machine) finish() {
	if len(m.running) == 0 {
		m.Skip("nothing runs")
	}
	i := rapid.IntRange(0, len(m.running)-1).Draw(m.T, "batch")
	m.answer(i, rapid.SampledFrom([]string{"answers", "answers", "error", "items", "items only", "count", "complete"}).Draw(m.T, "how"))
}

// answer finishes the batch running[i] in one of the ways a replica may.
func (m *machine) answer(i int, how string) {
	b := m.running[i]
	m.forget(b)
	var members []*ask
	for _, q := range b.Queries {
		members = append(members, q.In)
	}
	l, begun := m.members[b].seat.release(fmt.Sprint(ids(members)), m.ref.now)

	n := len(b.Queries)
	out := make([]int, n)
	wants := make([]error, n) // each query's error
	for i, q := range b.Queries {
		out[i] = answerTo(q.In.id)
		if how == "items only" || how == "items" && rapid.Bool().Draw(m.T, "fails") {
			wants[i] = errItem
		}
	}
	items := batch.ItemErrors(slices.Clone(wants))
	finish := func() { b.Finish(out, nil) }
	var whole error
	switch how {
	case "error":
		whole = errModel
		finish = func() { b.Finish(nil, errModel) }
	case "lost":
		whole = errLost
		finish = func() { b.Lost(errLost) }
	case "interrupted":
		whole = errLost
		finish = func() { b.Interrupted(errLost) }
	case "count":
		whole = &batch.CountError{}
		finish = func() { b.Finish(append(out, 1), nil) }
	case "items":
		finish = func() { b.Finish(out, items) }
	case "items only":
		finish = func() { b.Finish(nil, items) }
	case "complete":
		finish = func() {
			for i, q := range b.Queries {
				q.Out = out[i]
			}
			b.Complete()
		}
	}
	gone := 0
	for _, q := range members {
		if q.gone {
			gone++
		}
	}
	m.ref.stats.Batches++
	m.ref.stats.Sizes[n]++
	m.ref.stats.Reasons[b.Reason]++
	m.ref.stats.Running -= n
	m.ref.stats.Wasted += m.clock.now.Sub(begun) * time.Duration(gone) / time.Duration(n)
	if whole != nil {
		m.ref.fail(l, whole, how)
	} else {
		for i, q := range members {
			q.attempts++
			q.wants = append(q.wants, wants[i])
			if wants[i] == nil {
				m.ref.stats.Answered++
			} else {
				m.ref.stats.Failed++
			}
		}
		if l.piece != nil {
			m.ref.pass(l.piece)
		}
	}
	m.ref.dispatch()
	finish()
	for _, q := range b.Queries {
		want := batch.Trip{
			Queued: begun.Sub(q.In.arrived), Computed: m.clock.now.Sub(begun),
			BatchID: b.ID, BatchSize: n, Reason: b.Reason, Attempts: q.In.attempts,
		}
		if q.Trip != want {
			m.Fatalf("trip of query %d: got %+v, want %+v", q.In.id, q.Trip, want)
		}
	}
}

func (m *machine) update(l batch.Limits) {
	if m.ref.limits.IsolateCallers != l.IsolateCallers {
		m.ref.held = nil // there are other groups now
	}
	m.ref.limits = l
	m.ref.dispatch()
	m.batcher.Update(l)
}

func (m *machine) advance() {
	ms := rapid.OneOf(rapid.IntRange(1, 25), rapid.IntRange(1, 25), rapid.Just(101)).Draw(m.T, "ms")
	to := m.clock.now.Add(time.Duration(ms) * time.Millisecond)
	m.clock.advance(to)
	m.ref.advance(to)
}

// timer is told of each timer that ends: the batcher then looks again, also
// where the query that the timer was set for has left.
func (m *machine) timer() {
	m.ref.advance(m.clock.now)
	if len(m.ref.waiting) > 0 || slices.ContainsFunc(m.ref.failures, func(f *failure) bool { return len(f.asks()) > 0 }) {
		m.ref.dispatch()
	}
}

// drain begins a drain, seldom, or gives up the one that runs.
func (m *machine) drain() {
	if rapid.IntRange(0, 5).Draw(m.T, "seldom") > 0 {
		m.Skip("not now")
	}
	if m.drained == nil {
		m.beginDrain()
	} else {
		m.endDrain()
	}
}

func (m *machine) beginDrain() {
	m.ref.draining = true
	m.ref.dispatch()
	ctx := &drainContext{begun: make(chan struct{})}
	ctx.Context, m.giveUp = context.WithCancel(context.Background())
	m.drained = make(chan error, 1)
	go func() { m.drained <- m.batcher.Drain(ctx) }()
	<-ctx.begun
}

func (m *machine) endDrain() {
	for _, f := range m.ref.failures {
		m.ref.waiting = append(m.ref.waiting, f.asks()...)
		f.pieces = nil
	}
	m.ref.failures = slices.DeleteFunc(m.ref.failures, func(f *failure) bool { return !f.running })
	idle := len(m.ref.waiting)+m.ref.stats.Running == 0
	for _, q := range m.ref.waiting {
		q.wants = append(q.wants, batch.ErrDraining)
		m.ref.stats.Dropped++
	}
	m.ref.waiting = nil
	if !idle {
		m.ref.gaveUp = true
		m.giveUp()
	}
	if err := <-m.drained; (err == nil) != idle {
		m.Fatalf("drain returned %v", err)
	}
	m.giveUp()
	m.drained = nil
}

// wrapUp drains the batcher in good order: every query must be answered.
func (m *machine) wrapUp() {
	m.compare()
	if m.drained == nil {
		m.beginDrain()
	}
	if len(m.replicas) == 0 {
		m.attach()
	}
	for len(m.running) > 0 {
		m.answer(0, "answers")
		m.compare()
	}
	m.endDrain()
	m.compare()
	if len(m.ref.waiting) > 0 {
		m.Fatalf("still waiting: %v", ids(m.ref.waiting))
	}
}

// compare checks that the batcher did what the reference says, and no more.
func (m *machine) compare() {
	if !slices.Equal(m.cancelled, m.cancels) {
		m.Fatalf("told that everybody left: got %v, want %v", m.cancelled, m.cancels)
	}
	if !slices.Equal(m.started, m.ref.starts) {
		m.Fatalf("batches\n got %s\nwant %s", show(m.started), show(m.ref.starts))
	}
	for _, q := range m.asks {
		if len(q.seen) > 1 || !slices.EqualFunc(q.seen, q.wants, sameError) {
			m.Fatalf("query %d ended with %v, want %v", q.id, q.seen, q.wants)
		}
	}
	want := m.ref.stats
	want.Queued = len(m.ref.waiting)
	for _, f := range m.ref.failures {
		want.Queued += len(f.asks())
	}
	got := m.batcher.Stats()
	if !maps.Equal(got.Sizes, want.Sizes) {
		m.Fatalf("sizes: got %v, want %v", got.Sizes, want.Sizes)
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		m.Fatalf("stats:\n got %+v\nwant %+v", got, want)
	}
	if got.Admitted != got.Answered+got.Failed+got.Dropped+uint64(got.Queued+got.Running) {
		m.Fatalf("stats do not add up: %+v", got)
	}
	for _, r := range m.leaving {
		select {
		case <-r.done:
			if r.running > 0 {
				m.Fatalf("replica %d is done with %d batches running", r.seat.name, r.running)
			}
		default:
			if r.running == 0 {
				m.Fatalf("replica %d is idle and detached, but not done", r.seat.name)
			}
		}
	}
}

func show(starts []start) (out string) {
	for _, s := range starts {
		out += fmt.Sprintf("\n  %s on %d: %v at %v", s.ids, s.seat.name, s.reason, s.left.Sub(epoch))
	}
	return out
}

// sameError reports whether got is the sentinel that is wanted, or of its type.
func sameError(got, want error) bool {
	switch want := want.(type) {
	case *batch.TooLargeError:
		_, ok := errors.AsType[*batch.TooLargeError](got)
		return ok
	case *batch.OverloadError:
		overload, ok := errors.AsType[*batch.OverloadError](got)
		return ok && overload.Reason == want.Reason && errors.Is(got, batch.ErrQueueFull)
	case *batch.LostError:
		_, ok := errors.AsType[*batch.LostError](got)
		return ok
	case *batch.CountError:
		_, ok := errors.AsType[*batch.CountError](got)
		return ok
	}
	return errors.Is(got, want)
}

var epoch = time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)

// virtualClock is a clock that a test advances. It is not safe for concurrent use.
type virtualClock struct {
	now    time.Time
	timers []*virtualTimer
	ends   func() // called when a timer ends, before what it was set for
}

type virtualTimer struct {
	clock *virtualClock
	at    time.Time
	f     func()
}

func newVirtualClock() *virtualClock { return &virtualClock{now: epoch} }

func (c *virtualClock) Now() time.Time { return c.now }

func (c *virtualClock) AfterFunc(d time.Duration, f func()) batch.Timer {
	t := &virtualTimer{c, c.now.Add(d), f}
	c.timers = append(c.timers, t)
	return t
}

func (c *virtualClock) advance(to time.Time) {
	for len(c.timers) > 0 {
		t := slices.MinFunc(c.timers, func(a, b *virtualTimer) int { return a.at.Compare(b.at) })
		if t.at.After(to) {
			break
		}
		t.Stop()
		if t.at.After(c.now) {
			c.now = t.at
		}
		if c.ends != nil {
			c.ends()
		}
		t.f()
	}
	c.now = to
}

func (t *virtualTimer) Stop() bool {
	i := slices.Index(t.clock.timers, t)
	if i >= 0 {
		t.clock.timers = slices.Delete(t.clock.timers, i, i+1)
	}
	return i >= 0
}

// virtualContext ends when cancelled is set or at a moment of a virtualClock.
type virtualContext struct {
	clock     *virtualClock
	cancelled bool
	deadline  time.Time
}

func (c *virtualContext) Deadline() (time.Time, bool) { return c.deadline, !c.deadline.IsZero() }
func (c *virtualContext) Done() <-chan struct{}       { return nil }
func (c *virtualContext) Value(any) any               { return nil }

func (c *virtualContext) Err() error {
	switch {
	case c.cancelled:
		return context.Canceled
	case !c.deadline.IsZero() && !c.clock.now.Before(c.deadline):
		return context.DeadlineExceeded
	}
	return nil
}

// drainContext tells when Drain has done its part and begins to wait.
type drainContext struct {
	context.Context
	begun chan struct{}
}

func (c *drainContext) Done() <-chan struct{} {
	close(c.begun)
	return c.Context.Done()
}
