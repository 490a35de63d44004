package batch

// SubmitIdle starts a query at once, in a batch of its own, if a replica is free and
// no query waits; else it reports false, and nothing happened. It is for what matters
// less than any query of a caller, such as a check of an answer that was given: nothing
// ever waits for it in the queue, and Done is called exactly once. It is computed once:
// when its batch fails or its replica gives it back, it fails. Its errors are those of
// [Batcher.Submit], but for a full queue; it is not split.
func (b *Batcher[In, Out]) SubmitIdle(q *Query[In, Out]) (bool, error) {
	if q.dead() {
		return false, left(b.opts.Name, q)
	}
	key, err := b.measure(q)
	if err != nil {
		return false, err
	}
	q.admitted()
	now := b.opts.Clock.Now()
	var work work[In, Out]
	b.mu.Lock()
	err = b.refuses()
	if maximum := b.limits.MaxBatchSize; err == nil && q.cost > maximum {
		err = &TooLargeError{Name: b.opts.Name, Cost: q.cost, Max: maximum}
	}
	if err != nil || b.free == 0 || b.queued() > 0 {
		b.mu.Unlock()
		return false, err
	}
	q.once, q.arrived, q.due = true, now, q.deadline()
	q.key = b.waiting.keyOf(q, Group{Origin: q.Origin, Key: key})
	b.stats.Admitted++
	batch := b.blank()
	batch.Queries, batch.Reason = append(batch.Queries, q), Free
	b.book(batch, now)
	work.start(batch)
	b.mu.Unlock()
	b.do(&work)
	return true, nil
}
