package batch

// abandoned are the batches that their last caller has just left. By the time
// that a replica hears of it, the memory of its batch may be another's.
type abandoned[In, Out any] []abandonedBatch[In, Out]

type abandonedBatch[In, Out any] struct {
	replica *Replica[In, Out]
	id      uint64
}

// Withdraw says that nobody waits for a query any more. It reports true if the
// query was not with a replica: then it will not run and Done will not be called.
// Otherwise Done will be called as if it had not been withdrawn; when all queries of a
// batch were, its replica is told. Of a query that was split it takes out the parts that
// still wait; while other parts are being computed it reports false, and Done
// will be called with an error.
func (b *Batcher[In, Out]) Withdraw(q *Query[In, Out]) (withdrawn bool) {
	var left abandoned[In, Out]
	var work work[In, Out]
	b.mu.Lock()
	if q.split != nil {
		withdrawn = b.withdrawParts(q.split, &left)
	} else {
		withdrawn = b.withdraw(q, &left)
	}
	if b.free == 0 && b.ahead > 0 { // it may have stood before a full batch, which can be sent ahead now
		b.dispatch(b.opts.Clock.Now(), &work)
	}
	b.mu.Unlock()
	b.do(&work)
	for _, batch := range left {
		batch.replica.opts.Cancel(batch.id)
	}
	return withdrawn
}

// withdraw takes a query out of where it waits, or notes that it was left. mu is held.
func (b *Batcher[In, Out]) withdraw(q *Query[In, Out], left *abandoned[In, Out]) bool {
	switch {
	case q.group != nil:
		b.remove(q)
	case q.part != nil:
		b.unpart(q)
	default:
		q.leave(left)
		return false
	}
	b.stats.Dropped++
	b.checkIdle()
	return true
}

// leave notes that nobody waits for a query that is with a replica. mu is held.
func (q *Query[In, Out]) leave(left *abandoned[In, Out]) {
	batch := q.batch
	if batch == nil || q.gone { // it is about to be answered, or left already
		return
	}
	q.gone = true
	if batch.gone++; batch.gone < len(batch.Queries) {
		return
	}
	batch.abandoned.Store(true)
	if batch.replica.opts.Cancel != nil {
		*left = append(*left, abandonedBatch[In, Out]{batch.replica, batch.ID})
	}
}

// Abandoned reports whether every caller of the batch has left, so that nobody
// will read its answers.
func (b *Batch[In, Out]) Abandoned() bool { return b.abandoned.Load() }
