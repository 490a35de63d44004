package batch

import "context"

// rehearsed is the highest bit of a batch's ID: it tells batches of [Rehearse]
// from those of a Batcher.
const rehearsed = 1 << 63

// Rehearse has run compute inputs as one batch that belongs to no Batcher, such
// as the first of a replica that is not attached yet. It returns the answers, or
// the error of the first query that has one, or, when ctx ends first, its cause;
// then run may still complete the batch. id tells the batches of one replica
// apart.
func Rehearse[In, Out any](ctx context.Context, name string, id uint64, origin Origin, in []In, run func(*Batch[In, Out])) ([]Out, error) {
	out, errs, err := Together(ctx, name, id, origin, in, run, nil)
	for _, failed := range errs {
		if err == nil {
			err = failed
		}
	}
	if err != nil {
		return nil, err
	}
	return out, nil
}

// Together is Rehearse that tells what came of each query: its answer, or its error.
// answered, if it is given, is called for each query before its replica may take the
// answer's memory for another.
func Together[In, Out any](ctx context.Context, name string, id uint64, origin Origin, in []In, run func(*Batch[In, Out]), answered func(*Query[In, Out])) (out []Out, errs []error, err error) {
	b := New(Options[In, Out]{Name: name, Limits: Limits{MaxBatchSize: len(in), MaxQueued: len(in), LeaveAtOnce: true, OnError: FailAll}})
	b.batches = rehearsed + id - 1
	queries := make([]Query[In, Out], len(in))
	done := make(chan struct{}, len(in)) // with room for all, so that nobody waits for us
	for i := range in {
		queries[i] = Query[In, Out]{In: in[i], Origin: origin, Done: func(q *Query[In, Out]) {
			if answered != nil {
				answered(q)
			}
			done <- struct{}{}
		}}
		if err := b.Submit(&queries[i]); err != nil {
			return nil, nil, err
		}
	}
	begun := false
	b.Attach(1, func(batch *Batch[In, Out]) {
		if begun { // the replica gave the batch back
			batch.Finish(nil, ErrStopped)
			return
		}
		begun = true
		run(batch)
	})
	for range in {
		select {
		case <-done:
		case <-ctx.Done():
			return nil, nil, context.Cause(ctx)
		}
	}
	out, errs = make([]Out, len(in)), make([]error, len(in))
	for i := range queries {
		out[i], errs[i] = queries[i].Out, queries[i].Err
	}
	return out, errs, nil
}
