package batch

import "slices"

// Refuse makes Submit refuse every query with err, and fails with it those that
// wait, also for another try: nobody will compute them for a while. What is being computed goes on. Nil
// ends that.
func (b *Batcher[In, Out]) Refuse(err error) {
	var work work[In, Out]
	b.mu.Lock()
	b.refusal = err
	if err != nil {
		for q := b.waiting.oldest; q != nil; q = b.waiting.oldest {
			b.drop(q, err, &work)
		}
		for _, s := range slices.Clone(b.isolations) {
			for _, q := range s.waiting() {
				b.drop(q, err, &work)
			}
			b.checkOver(s)
		}
	}
	b.mu.Unlock()
	b.do(&work)
}
