package batch

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// Limits bound a batcher; they may change while it runs.
type Limits struct {
	// MaxBatchSize is the most that one batch may cost: queries, unless
	// Options.Cost says otherwise. Default 32.
	MaxBatchSize int
	// BatchWaitTimeout is how long the oldest query may be held back for the
	// batch to fill while a replica is free. It counts from the query's
	// arrival. Default 0: nothing is held.
	BatchWaitTimeout time.Duration
	// LeaveAtOnce switches the departure policy off: with a BatchWaitTimeout of
	// 0, a free replica then takes what waits at once, always.
	LeaveAtOnce bool
	// LatencySLO is the objective for the time from a query's arrival to its
	// answer: a batch is no larger than what, by the service times learned so
	// far, still meets it for its oldest query, and is held no longer. Where no size
	// can meet it, it does not count. Default 0: there is none.
	LatencySLO time.Duration
	// MaxQueued is the most queries that may wait. Default 4096.
	MaxQueued int
	// MaxQueuedBytes is the most bytes that may wait, as Options.Size or
	// Query.Bytes count them. Default 256 MiB.
	MaxQueuedBytes int64
	// CallerWeights are the shares that callers get of a batcher that is not enough
	// for all: one of weight 4 gets four times as much as one of weight 1. "*" stands
	// for those that are not named, "" for queries without a name. Default 1 each.
	CallerWeights map[string]float64
	// IsolateCallers never lets queries of two callers share a batch.
	IsolateCallers bool
	// QueueTimeTarget is how long queries may wait when that has not been less for a
	// while: then more are refused than would wait longer. Default 0: as long as their
	// deadlines allow.
	QueueTimeTarget time.Duration
	// ComputeLate has queries admitted and computed that cannot be answered by their
	// deadlines, by the service times learned so far. Else they are refused at once, or
	// dropped as soon as that is certain.
	ComputeLate bool
	// OnError says what becomes of a batch that fails as a whole: by default it
	// is split, so that only the guilty queries fail.
	OnError OnError
}

func (l Limits) withDefaults() Limits {
	if l.MaxBatchSize <= 0 {
		l.MaxBatchSize = 32
	}
	if l.MaxQueued <= 0 {
		l.MaxQueued = 4096
	}
	if l.MaxQueuedBytes <= 0 {
		l.MaxQueuedBytes = 256 << 20
	}
	return l
}

// Options describe a batcher. The zero value is a batcher of single queries
// that all may share a batch.
type Options[In, Out any] struct {
	Limits
	// Name names the backend in errors.
	Name string
	// Key tells which queries may share a batch: those with the same key.
	Key func(In) string
	// Cost is what a query counts against MaxBatchSize: its rows, tokens,
	// pixels; at least 1. Nil counts every query as 1.
	Cost func(In) int
	// Size is what a query counts against MaxQueuedBytes, in bytes. Nil: its Bytes.
	Size func(In) int64
	// Split cuts a query that costs more than max into parts that cost at most
	// max each; Join makes one answer of the parts' answers, in order. Without
	// them such a query is refused.
	Split func(in In, max int) []In
	Join  func([]Out) (Out, error)
	// OnBatch is called after each batch, before its answers go out, from the
	// goroutine that finished it. It must not keep the batch, whose memory is
	// used again.
	OnBatch func(*Batch[In, Out])
	// OnStarved is called when a query was taken in and there is no replica at
	// all, from the goroutine that brought it. It must not block.
	OnStarved func()
	// Departure replaces the departure policy, which learns. It serves one
	// batcher.
	Departure Departure
	// Clock replaces the real clock.
	Clock Clock
}

// Batcher owns a queue and hands batches to the replicas attached to it.
// Its methods may be called from any goroutine.
type Batcher[In, Out any] struct {
	opts     Options[In, Out]
	arrivals atomic.Pointer[call[In, Out]]  // the newest, see arrive
	calls    sync.Pool                      // of *call[In, Out], see Do
	spare    atomic.Pointer[Batch[In, Out]] // see reuse

	mu       sync.Mutex
	limits   Limits
	waiting  queue[In, Out]
	replicas []*Replica[In, Out]
	free     int // free slots over all replicas
	ahead    int // batches that busy replicas would take ahead
	batches  uint64
	hold     Timer           // wakes the queue when the earliest hold ends; nil when none is set
	holdEnds time.Time       // when that is
	held     *group[In, Out] // which the departure policy holds; nil for none
	hurried  bool            // its hold ended because a deadline is near
	draining bool
	refusal  error             // what Submit refuses every query with; see Refuse
	gaveUp   bool              // a drain had no more time: nothing waits any more
	idle     chan struct{}     // closed when draining and every answer is out
	stats    Stats             // but for Sizes
	sizes    []uint64          // batches by their number of queries
	lates    []*Query[In, Out] // scratch space of dropDead

	computed time.Duration // that batches took which are done

	running int       // queries in batches that are being computed
	above   time.Time // since when the queue time is above its target; zero if it is not

	isolations []*isolation[In, Out] // of batches that failed, the oldest first
	suspects   int                   // queries in them that wait
	lost       int                   // replicas that died, until others take their places
	lastLost   time.Time             // when the last of them died

	ending    atomic.Bool  // draining, for those who do not hold mu
	answering atomic.Int64 // queries that were computed or dropped, until their Done returns

	departure Departure
	service   serviceTimes
}

// New returns a batcher without replicas: queries wait until one is attached.
func New[In, Out any](opts Options[In, Out]) *Batcher[In, Out] {
	if opts.Clock == nil {
		opts.Clock = realClock{}
	}
	b := &Batcher[In, Out]{opts: opts, limits: opts.Limits.withDefaults(), idle: make(chan struct{})}
	b.waiting.groups = make(map[Group]*group[In, Out])
	b.waiting.flows, b.waiting.lanes = make(map[string]*flow), make(map[laneKey[In, Out]]*lane[In, Out])
	b.waiting.patience = patience
	b.waiting.isolate = b.limits.IsolateCallers
	b.waiting.weigh(b.limits.CallerWeights)
	if b.departure = opts.Departure; b.departure == nil {
		b.departure = &learned{service: &b.service}
	}
	b.calls.New = func() any { return newCall[In, Out]() }
	return b
}

// Submit admits a query, whose Done will then be called exactly once, or
// refuses it with an *[OverloadError], which is [ErrQueueFull], [ErrDraining], a *[TooLargeError], a
// *[PanicError] from a callback, or the error of a context that has ended.
func (b *Batcher[In, Out]) Submit(q *Query[In, Out]) error {
	if q.dead() {
		return b.refuse(left(b.opts.Name, q))
	}
	key, err := b.measure(q)
	if err != nil {
		return b.refuse(err)
	}
	q.admitted()
	now := b.opts.Clock.Now()

	b.mu.Lock()
	var work work[In, Out]
	grown, err := b.admit(q, key, now, &work)
	if err != nil {
		b.countRefusal(err)
		b.mu.Unlock()
		return err
	}
	b.dispatchArrival(grown, now, &work)
	b.mu.Unlock()
	b.do(&work)
	return nil
}

func (b *Batcher[In, Out]) refuse(err error) error {
	b.mu.Lock()
	b.countRefusal(err)
	b.mu.Unlock()
	return err
}

// countRefusal counts a query that Submit refuses. mu is held.
func (b *Batcher[In, Out]) countRefusal(err error) {
	reason := Other
	if overload, ok := err.(*OverloadError); ok { //nolint:errorlint // it is not wrapped yet
		reason = overload.Reason
	}
	b.stats.Refused++
	b.stats.Refusals[reason]++
}

// measure calls the user's callbacks, outside the lock.
func (b *Batcher[In, Out]) measure(q *Query[In, Out]) (key string, err error) {
	q.cost, q.bytes = 1, max(0, q.Bytes)
	if b.opts.Key == nil && b.opts.Cost == nil && b.opts.Size == nil {
		return "", nil
	}
	where := "key"
	defer recovered(&where, &err)
	if b.opts.Key != nil {
		key = b.opts.Key(q.In)
	}
	where = "cost"
	if b.opts.Cost != nil {
		q.cost = max(1, b.opts.Cost(q.In))
	}
	where = "size"
	if b.opts.Size != nil {
		q.bytes = max(0, b.opts.Size(q.In))
	}
	return key, nil
}

// admit puts q, or the parts it had to be cut into, into the queue and returns
// the group that grew. The mutex is held, and released while q is cut.
func (b *Batcher[In, Out]) admit(q *Query[In, Out], key string, now time.Time, w *work[In, Out]) (g *group[In, Out], err error) {
	if err := b.refuses(); err != nil {
		return nil, err
	}
	q.due = q.deadline()
	var s *split[In, Out]
	n := 1
	if q.cost > b.limits.MaxBatchSize {
		if s, err = b.cutUnlocked(q); err != nil {
			return nil, err
		}
		n = len(s.parts)
	}
	if err := b.inTime(q, now); err != nil {
		return nil, err
	}
	if err := b.room(q, n, now, w); err != nil {
		return nil, err
	}
	if s == nil {
		return b.push(q, key, now), nil
	}
	q.split = s
	for _, part := range s.parts {
		part.due = q.due
		g = b.push(part, key, now)
	}
	return g, nil
}

func (b *Batcher[In, Out]) push(q *Query[In, Out], key string, now time.Time) *group[In, Out] {
	q.arrived = now
	b.stats.Admitted++
	g := b.waiting.push(q, Group{Origin: q.Origin, Key: key})
	if b.limits.BatchWaitTimeout > 0 || g == b.held {
		g.hurry(q)
	}
	if b.departs() {
		b.departure.Arrived(now, g.key)
	}
	return g
}

// Update changes the limits; zero fields take their defaults. Queries that
// wait are judged by the new limits from now on.
func (b *Batcher[In, Out]) Update(l Limits) {
	var work work[In, Out]
	now := b.opts.Clock.Now()
	b.mu.Lock()
	b.limits = l.withDefaults()
	b.waiting.weigh(b.limits.CallerWeights)
	if b.limits.IsolateCallers != b.waiting.isolate {
		b.endHold() // there are other groups now
		b.waiting.separate(b.limits.IsolateCallers)
	}
	if b.limits.BatchWaitTimeout > 0 {
		for g := range b.waiting.waiting {
			g.findUrgent() // nobody looked at deadlines while nothing was held
		}
	}
	b.dispatch(now, &work)
	b.mu.Unlock()
	b.do(&work)
}

// Limits returns the limits in force.
func (b *Batcher[In, Out]) Limits() Limits {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.limits
}

// Drain refuses new queries, ends all holds, and waits until every admitted
// query was answered. If ctx ends first, the queries that still wait fail with
// ErrDraining; those that are being computed finish on their own.
func (b *Batcher[In, Out]) Drain(ctx context.Context) error {
	var ready work[In, Out]
	now := b.opts.Clock.Now()
	b.mu.Lock()
	b.draining = true
	b.ending.Store(true)
	if b.hold != nil {
		b.hold.Stop()
		b.hold = nil
	}
	b.dispatch(now, &ready)
	b.checkIdle()
	b.mu.Unlock()
	b.do(&ready)

	select {
	case <-b.idle:
		return nil
	case <-ctx.Done():
	}
	b.mu.Lock()
	b.gaveUp = true
	stranded := b.running
	var rest work[In, Out]
	b.dropWaiting(ErrDraining, &rest)
	stranded += len(rest.done)
	b.mu.Unlock()
	b.do(&rest)
	return fmt.Errorf("draining backend %q: %d queries were not answered: %w", b.opts.Name, stranded, context.Cause(ctx))
}

// queued is the number of queries that wait, also for another try. mu is held.
func (b *Batcher[In, Out]) queued() int { return b.waiting.len + b.suspects }

// answered books that the Done of n queries returned.
func (b *Batcher[In, Out]) answered(n int) {
	// Drain sets ending before it looks at answering, here it is the other way
	// round: one of the two sees the end.
	if b.answering.Add(-int64(n)) == 0 && b.ending.Load() {
		b.mu.Lock()
		b.checkIdle()
		b.mu.Unlock()
	}
}

// countSize counts a batch of n queries. mu is held.
func (b *Batcher[In, Out]) countSize(n int) {
	if n >= len(b.sizes) {
		b.sizes = append(b.sizes, make([]uint64, n+1-len(b.sizes))...)
	}
	b.sizes[n]++
}

// checkIdle closes idle once a draining batcher has nothing left. mu is held.
func (b *Batcher[In, Out]) checkIdle() {
	if !b.draining || b.queued()+b.running+int(b.answering.Load()) > 0 {
		return
	}
	select {
	case <-b.idle:
	default:
		close(b.idle)
	}
}

// Stats counts what a batcher did since it was made. Each part of a query that
// was split counts as a query. At any moment, Admitted is the sum of Dropped,
// Answered, Failed, Queued and Running.
type Stats struct {
	Admitted uint64 // queries taken in
	Refused  uint64 // queries refused by Submit
	Dropped  uint64 // queries that left before a batch formed, or while they waited to be computed again
	Evicted  uint64 // of these, those that made room for others
	Late     uint64 // of these, those that could not have been answered by their deadline
	Answered uint64 // queries a replica answered, with a result
	Failed   uint64 // queries a replica answered, with an error
	Batches  uint64
	// Ahead counts the batches that left for a replica that was still busy,
	// Returned those that it gave back before it began them.
	Ahead, Returned uint64
	// Isolated counts the batches that failed as a whole and were computed again
	// in parts, which count as batches with the reason Retry; Poison the queries that
	// were refused because replicas ended with them.
	Isolated, Poison uint64
	// Wasted is the time for which replicas computed queries that nobody waited
	// for any more: of each batch the share of those that were withdrawn.
	Wasted time.Duration
	// Sizes counts the batches by their number of queries.
	Sizes map[int]uint64
	// Reasons counts the batches by Reason.
	Reasons [reasons]uint64
	// Refusals counts the queries refused by Refusal.
	Refusals [refusals]uint64
	// Queued and Running are the queries that wait and that are being
	// computed, at this moment.
	Queued, Running int
}

// Stats returns the counts so far.
func (b *Batcher[In, Out]) Stats() Stats {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.stats
	s.Sizes = make(map[int]uint64)
	for size, n := range b.sizes {
		if n > 0 {
			s.Sizes[size] = n
		}
	}
	s.Queued, s.Running = b.queued(), b.running
	return s
}

// Load is what a batcher's replicas have to do.
type Load struct {
	// Busy is the time that batches were computed, summed over all batches since
	// the batcher was made, those that run now included.
	Busy time.Duration
	// OldestWait is how long the query that waits longest has waited.
	OldestWait time.Duration
	// Queued and Running are the queries that wait and that are being computed.
	Queued, Running int
	// Admitted counts the queries taken in.
	Admitted uint64
}

// Load returns what there is to do at this moment.
func (b *Batcher[In, Out]) Load() Load {
	now := b.opts.Clock.Now()
	b.mu.Lock()
	defer b.mu.Unlock()
	l := Load{Busy: b.computed, Queued: b.queued(), Running: b.running, Admitted: b.stats.Admitted}
	if q := b.waiting.oldest; q != nil {
		l.OldestWait = now.Sub(q.arrived)
	}
	for _, r := range b.replicas {
		for _, running := range r.batches[:min(r.slots, len(r.batches))] {
			l.Busy += now.Sub(running.started)
		}
	}
	return l
}

// Reasons lists every Reason.
func Reasons() []Reason {
	all := make([]Reason, reasons)
	for i := range all {
		all[i] = Reason(i)
	}
	return all
}
