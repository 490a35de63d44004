package batch

// Refuse makes Submit refuse every query with err, and fails with it those that
// wait, also for another try: nobody will compute them for a while. What is being
// computed goes on. Nil ends that.
func (b *Batcher[In, Out]) Refuse(err error) {
	var work work[In, Out]
	b.mu.Lock()
	b.refusal = err
	if err != nil {
		b.dropWaiting(err, &work)
	}
	b.mu.Unlock()
	b.do(&work)
}

// refuses is why no query is taken in at all, if none is. mu is held.
func (b *Batcher[In, Out]) refuses() error {
	if b.draining {
		return ErrDraining
	}
	return b.refusal
}
