package batch

import (
	"errors"
	"slices"
	"sync/atomic"
	"time"
)

// Batch is what one replica computes in one call.
type Batch[In, Out any] struct {
	// ID numbers the batches of a Batcher, from 1.
	ID uint64
	// Queries are the members in order of arrival. A replica reads their In and
	// sets their Out or Err, and nothing else.
	Queries []*Query[In, Out]
	// Origin is the one origin of all members.
	Origin Origin
	// Reason is why the batch left, and Left when it did.
	Reason Reason
	Left   time.Time
	// Ahead reports that the batch left for a replica that was still busy; it
	// may be asked for again until it starts.
	Ahead bool
	// Computed is the time that the replica took; set before OnBatch.
	Computed time.Duration
	// Err is why the batch failed as a whole, if it did, and Again how many of its
	// members are to be computed again for it: Queries are then those that are not.
	// They are set before OnBatch.
	Err   error
	Again int

	replica   *Replica[In, Out]
	part      *part[In, Out] // set on a part of a batch that failed
	cost      int            // of all members
	started   time.Time      // when the replica had a slot for it; zero before
	asked     bool           // the replica was asked to give it back
	gone      int            // members that were withdrawn
	abandoned atomic.Bool    // all were
}

// Inputs returns the members' inputs in order.
func (b *Batch[In, Out]) Inputs() []In {
	in := make([]In, len(b.Queries))
	for i, q := range b.Queries {
		in[i] = q.In
	}
	return in
}

// Finish answers a batch with what a model function returned: one answer for
// each query, or [ItemErrors]. With another error, or another number of answers, which
// is a *[CountError], the batch failed as a whole: its queries are computed again in
// parts, or fail with the error, as [Limits].OnError says. It must be called once.
func (b *Batch[In, Out]) Finish(out []Out, err error) {
	n := len(b.Queries)
	items, perItem := errors.AsType[ItemErrors](err)
	answers := len(out)
	if perItem {
		err = nil
		if len(items) != n {
			items, answers = nil, len(items)
		}
	}
	if err == nil && answers != n {
		err = &CountError{Name: b.replica.batcher.opts.Name, Expected: n, Got: answers}
	}
	if err != nil && items == nil {
		b.end(err, raised)
		return
	}
	for i, q := range b.Queries {
		switch {
		case items != nil && items[i] != nil:
			q.Err = items[i]
		case err != nil:
			q.Err = err
		default:
			q.Out = out[i]
		}
	}
	b.Complete()
}

// Lost ends a batch whose replica ended while it computed it, for the reason
// err. That counts as an error of the whole batch, and a single query gets
// another chance, since it may be without guilt; the second time it fails with a
// *[LostError]. The replica must have been detached. It must be called once.
func (b *Batch[In, Out]) Lost(err error) { b.end(err, lost) }

// Interrupted ends a batch whose computation was broken off because it took too long,
// and its replica with it: its queries fail with err, also where others are computed
// again. Each part of the batch could take as long, and cost a replica. It must be
// called once.
func (b *Batch[In, Out]) Interrupted(err error) { b.end(err, interrupted) }

// Complete ends a batch whose queries have their Out or Err set: the replica
// gets its next batch, then the answers go out. It must be called once.
func (b *Batch[In, Out]) Complete() { b.end(nil, raised) }

// end ends a batch, which failed as a whole if whole is not nil.
func (b *Batch[In, Out]) end(whole error, how failure) {
	r, m := b.replica, b.replica.batcher
	now := m.opts.Clock.Now()
	failed := 0
	for _, q := range b.Queries {
		if q.Err != nil {
			failed++
		}
	}

	var work work[In, Out]
	m.mu.Lock()
	r.release(b, now)
	b.computed(now)
	if whole == nil && failed < len(b.Queries) {
		r.answered++
	}
	if whole != nil {
		if how != raised {
			r.lost(now)
		}
		m.isolate(b, whole, how, now)
		failed = len(b.Queries)
	} else if b.part != nil {
		m.pass(b.part)
	}
	m.stats.Failed += uint64(failed)
	m.stats.Answered += uint64(len(b.Queries) - failed)
	m.answering.Add(int64(len(b.Queries)))
	if b.Again == 0 {
		m.learn(b, now, failed == len(b.Queries))
	}
	m.dispatch(now, &work)
	m.mu.Unlock()
	m.do(&work)

	if whole == nil {
		for _, q := range b.Queries {
			q.Trip = b.trip(q)
		}
	}
	if m.opts.OnBatch != nil {
		m.opts.OnBatch(b)
	}
	for _, q := range b.Queries {
		q.Done(q)
	}
	m.answered(len(b.Queries))
}

// computed takes note of what a batch was that was computed. mu is held.
func (b *Batch[In, Out]) computed(now time.Time) {
	m, n := b.replica.batcher, len(b.Queries)
	if b.started.IsZero() { // answered before its replica had a slot for it
		b.started = now
	}
	b.Computed = now.Sub(b.started)
	m.computed += b.Computed
	m.stats.Batches++
	m.countSize(n)
	m.stats.Reasons[b.Reason]++
	m.stats.Wasted += b.Computed * time.Duration(b.gone) / time.Duration(n)
	m.running -= n
	for _, q := range b.Queries {
		q.batch = nil
	}
}

// trip is how one of its queries fared in a batch that was computed.
func (b *Batch[In, Out]) trip(q *Query[In, Out]) Trip {
	return Trip{
		Queued: max(0, b.started.Sub(q.arrived)), Computed: b.Computed,
		BatchID: b.ID, BatchSize: len(b.Queries), Reason: b.Reason, Attempts: q.attempts + 1,
	}
}

// Return gives a batch that its replica has not begun to compute back to the
// queue, where its queries take their old places; after a Drain that had not
// enough time they fail with ErrDraining, after a Refuse with its error. Then it must not be completed.
func (b *Batch[In, Out]) Return() {
	m := b.replica.batcher
	now := m.opts.Clock.Now()
	var work work[In, Out]
	m.mu.Lock()
	b.replica.release(b, now)
	m.stats.Returned++
	m.running -= len(b.Queries)
	if b.part != nil {
		m.returned(b.part)
	}
	for _, q := range b.Queries {
		q.batch = nil
		if q.once {
			m.giveUp(q, left(m.opts.Name, q), &work)
			continue
		}
		if b.part == nil {
			m.waiting.putBack(q)
		}
		switch {
		case m.gaveUp:
			m.drop(q, ErrDraining, &work)
		case m.refusal != nil:
			m.drop(q, m.refusal, &work)
		case q.gone:
			m.drop(q, left(m.opts.Name, q), &work)
		}
	}
	m.dispatch(now, &work)
	m.mu.Unlock()
	m.do(&work)
}

// keptQueries is the most room that a batch keeps for the one after it.
const keptQueries = 1024

// blank returns a batch without queries. mu is held.
func (b *Batcher[In, Out]) blank() *Batch[In, Out] {
	if batch := b.spare.Swap(nil); batch != nil {
		return batch
	}
	return new(Batch[In, Out])
}

// reuse makes the memory of a batch that was completed that of a later one. Its
// runner calls it if nobody else can still hold the batch.
func (b *Batch[In, Out]) reuse() {
	m, queries := b.replica.batcher, b.Queries
	clear(queries)
	*b = Batch[In, Out]{}
	if cap(queries) <= keptQueries {
		b.Queries = queries[:0]
	}
	m.spare.Store(b)
}

// Replica is one running instance of a model, attached to a batcher.
type Replica[In, Out any] struct {
	batcher *Batcher[In, Out]
	opts    ReplicaOptions[In, Out]

	// Guarded by batcher.mu.
	slots, ahead int
	batches      []*Batch[In, Out] // in the order they came; all but the first slots of them were sent ahead
	detached     bool
	died         bool          // with a batch
	done         chan struct{} // closed when detached and nothing runs
	answered     uint64        // batches of which at least one query got an answer
	blamed       bool          // it ended for a query that was refused for that
}

// ReplicaOptions describe a replica. Its functions may be called from the
// goroutines of callers and of finishing batches.
type ReplicaOptions[In, Out any] struct {
	// Slots is how many batches it computes at a time, at least 1.
	Slots int
	// Ahead is how many more it is handed while it is busy. That is for a replica
	// that gains by having its next batch before it is free, because a batch must
	// travel to it and be decoded. It gets only those to which no later query could
	// be added, so that no batch gets smaller for it, and must compute batches in the order
	// in which they came.
	Ahead int
	// Run starts a batch and returns soon; [Batch.Complete] or [Batch.Finish]
	// ends it, from any goroutine.
	Run func(*Batch[In, Out])
	// Recall asks for a batch that was handed over ahead, because another replica
	// is free with nothing else to do: if it was not begun it should be given back
	// with [Batch.Return], from any goroutine. It may be nil if Ahead is 0.
	Recall func(*Batch[In, Out])
	// Cancel tells that every caller of the batch with the ID has left, which
	// may have ended by now. The replica ends it all the same. It may be nil.
	Cancel func(id uint64)
}

// Attach gives the batcher a replica that computes up to slots batches at a
// time. run is [ReplicaOptions].Run.
func (b *Batcher[In, Out]) Attach(slots int, run func(*Batch[In, Out])) *Replica[In, Out] {
	return b.AttachReplica(ReplicaOptions[In, Out]{Slots: slots, Run: run})
}

// AttachReplica gives the batcher a replica.
func (b *Batcher[In, Out]) AttachReplica(opts ReplicaOptions[In, Out]) *Replica[In, Out] {
	r := &Replica[In, Out]{batcher: b, opts: opts, slots: max(1, opts.Slots), ahead: max(0, opts.Ahead), done: make(chan struct{})}
	var work work[In, Out]
	now := b.opts.Clock.Now()
	b.mu.Lock()
	b.replicas = append(b.replicas, r)
	b.lost = max(0, b.lost-1)
	b.count(r, 1)
	b.dispatch(now, &work)
	b.mu.Unlock()
	b.do(&work)
	return r
}

// free is the number of batches that the replica could start at once. mu is held.
func (r *Replica[In, Out]) free() int { return max(0, r.slots-len(r.batches)) }

// room is the number of batches that may be sent ahead to it. mu is held.
func (r *Replica[In, Out]) room() int { return r.ahead - max(0, len(r.batches)-r.slots) }

// count adds what room a replica has to the batcher's, or takes it off. mu is held.
func (b *Batcher[In, Out]) count(r *Replica[In, Out], sign int) {
	b.free += sign * r.free()
	b.ahead += sign * r.room()
}

// accept books a batch on the replica. mu is held.
func (r *Replica[In, Out]) accept(b *Batch[In, Out], now time.Time) {
	r.batcher.count(r, -1)
	if b.Ahead = r.free() == 0; b.Ahead {
		r.batcher.stats.Ahead++
	}
	r.batches = append(r.batches, b)
	r.begin(now)
	r.batcher.count(r, 1)
}

// release takes a batch off the replica, whose next one begins. mu is held.
func (r *Replica[In, Out]) release(b *Batch[In, Out], now time.Time) {
	if !r.detached {
		r.batcher.count(r, -1)
		defer r.batcher.count(r, 1)
	}
	i := slices.Index(r.batches, b)
	r.batches = slices.Delete(r.batches, i, i+1)
	r.begin(now)
	if r.detached && len(r.batches) == 0 {
		close(r.done)
	}
}

// lost takes note of a replica that ended with a batch. mu is held.
func (r *Replica[In, Out]) lost(now time.Time) {
	if !r.died {
		r.died = true
		r.batcher.lost++
		r.batcher.lastLost = now
	}
}

// begin notes the moment at which batches got a slot. mu is held.
func (r *Replica[In, Out]) begin(now time.Time) {
	for _, b := range r.batches[:min(r.slots, len(r.batches))] {
		if b.started.IsZero() {
			b.started = now
		}
	}
}

// Activity is what a replica does at one moment.
type Activity struct {
	// Oldest is the ID of the batch that has computed longest, Since is when the
	// replica could begin it; zero where the replica is idle.
	Oldest uint64
	Since  time.Time
	// Queries is the number of queries in that batch, Batches how many batches
	// the replica has, with those that were sent ahead.
	Queries, Batches int
	// Answered counts the batches of which at least one query got an answer.
	Answered uint64
	// Blamed is a query for the replica's end: it was refused with a *[LostError].
	Blamed bool
}

// Activity returns what the replica does now.
func (r *Replica[In, Out]) Activity() Activity {
	r.batcher.mu.Lock()
	defer r.batcher.mu.Unlock()
	a := Activity{Batches: len(r.batches), Answered: r.answered, Blamed: r.blamed}
	if len(r.batches) > 0 {
		oldest := r.batches[0] // batches get their slots in the order they came
		a.Oldest, a.Since, a.Queries = oldest.ID, oldest.started, len(oldest.Queries)
	}
	return a
}

// Detach takes the replica off the batcher: it gets no more batches, and is asked
// to give back what was sent ahead, for others to compute. The channel is closed
// once the batches it has are finished or given back.
func (r *Replica[In, Out]) Detach() <-chan struct{} {
	for _, b := range r.detach() {
		r.opts.Recall(b)
	}
	return r.done
}

// detach is Detach that returns the batches to ask for, the last first.
func (r *Replica[In, Out]) detach() (ahead []*Batch[In, Out]) {
	b := r.batcher
	b.mu.Lock()
	defer b.mu.Unlock()
	if r.detached {
		return nil
	}
	r.detached = true
	b.count(r, -1)
	b.replicas = slices.DeleteFunc(b.replicas, func(other *Replica[In, Out]) bool { return other == r })
	if len(r.batches) == 0 {
		close(r.done)
	}
	for i := len(r.batches) - 1; i >= r.slots; i-- {
		r.batches[i].asked = true
		ahead = append(ahead, r.batches[i])
	}
	return ahead
}
