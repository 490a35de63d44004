package batch

import (
	"errors"
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
	// Computed is the time that the replica took; set before OnBatch.
	Computed time.Duration

	replica *Replica[In, Out]
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
// each query, or an error for all of them, or [ItemErrors]. Another number of
// answers is a *[CountError] for all. It must be called once.
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

// Complete ends a batch whose queries have their Out or Err set: the replica
// gets its next batch, then the answers go out. It must be called once.
func (b *Batch[In, Out]) Complete() {
	r := b.replica
	m := r.batcher
	now := m.opts.Clock.Now()
	b.Computed = now.Sub(b.Left)
	failed := 0
	for _, q := range b.Queries {
		q.Trip = Trip{
			Queued: max(0, b.Left.Sub(q.arrived)), Computed: b.Computed,
			BatchID: b.ID, BatchSize: len(b.Queries), Reason: b.Reason,
		}
		if q.Err != nil {
			failed++
		}
	}

	var work work[In, Out]
	m.mu.Lock()
	m.stats.Batches++
	m.stats.Failed += uint64(failed)
	m.stats.Answered += uint64(len(b.Queries) - failed)
	m.stats.Sizes[len(b.Queries)]++
	m.stats.Reasons[b.Reason]++
	m.running -= len(b.Queries)
	m.answering += len(b.Queries)
	r.release()
	m.dispatch(now, &work)
	m.mu.Unlock()
	m.do(&work)

	if m.opts.OnBatch != nil {
		m.opts.OnBatch(b)
	}
	for _, q := range b.Queries {
		q.Done(q)
	}
	m.answered(len(b.Queries))
}

// Replica is one running instance of a model, attached to a batcher.
type Replica[In, Out any] struct {
	batcher *Batcher[In, Out]
	run     func(*Batch[In, Out])

	// Guarded by batcher.mu.
	slots, free int
	detached    bool
	done        chan struct{} // closed when detached and nothing runs
}

// Attach gives the batcher a replica that computes up to slots batches at a
// time. run starts a batch and returns soon; [Batch.Complete] or
// [Batch.Finish] ends it, from any goroutine. run may be called from the
// goroutines of callers and of finishing batches.
func (b *Batcher[In, Out]) Attach(slots int, run func(*Batch[In, Out])) *Replica[In, Out] {
	slots = max(1, slots)
	r := &Replica[In, Out]{batcher: b, run: run, slots: slots, free: slots, done: make(chan struct{})}
	var work work[In, Out]
	now := b.opts.Clock.Now()
	b.mu.Lock()
	b.replicas = append(b.replicas, r)
	b.free += slots
	b.dispatch(now, &work)
	b.mu.Unlock()
	b.do(&work)
	return r
}

// release gives back one slot. batcher.mu is held.
func (r *Replica[In, Out]) release() {
	r.free++
	if !r.detached {
		r.batcher.free++
	} else if r.free == r.slots {
		close(r.done)
	}
}

// Detach takes the replica off the batcher: it gets no more batches. The
// channel is closed once the batches it has are finished.
func (r *Replica[In, Out]) Detach() <-chan struct{} {
	b := r.batcher
	b.mu.Lock()
	defer b.mu.Unlock()
	if r.detached {
		return r.done
	}
	r.detached = true
	b.free -= r.free
	for i, other := range b.replicas {
		if other == r {
			b.replicas = append(b.replicas[:i:i], b.replicas[i+1:]...)
			break
		}
	}
	if r.free == r.slots {
		close(r.done)
	}
	return r.done
}
