package batch_test

import (
	"context"
	"errors"
	"testing"

	"github.com/shoalserve/shoal/batch"
)

// A worker that is stopped because a drain had no more time gives back what it
// had not begun. Nobody is left to compute it.
func TestWhatIsGivenBackAfterADrainThatEndedFails(t *testing.T) {
	s := &scene{T: t, clock: newVirtualClock()}
	s.Batcher = batch.New(options{Limits: batch.Limits{MaxBatchSize: 2}, Clock: s.clock})
	s.replica = s.attachAhead()
	begun := s.arrive("a")
	ahead := s.arrive("b", "c")
	check(t, "batches at the replica", len(s.running), 2)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Drain(ctx); err == nil {
		t.Error("the drain says that all was answered")
	}
	detached := s.replica.Detach()
	s.running[1].Return()
	s.running = s.running[:1]
	for _, o := range ahead {
		if o.done != 1 || !errors.Is(o.Err, batch.ErrDraining) {
			t.Errorf("%q was told %d times, %v", o.In, o.done, o.Err)
		}
	}
	s.rest()
	check(t, "the begun one", begun[0].Out, "A")
	<-detached
	check(t, "the next drain", s.Drain(t.Context()), nil)
	stats := s.Stats()
	check(t, "queries not accounted for", stats.Admitted-stats.Dropped-stats.Answered-stats.Failed, 0)
}

// A replica that is replaced may be busy for long, or for ever, with what it has begun.
func TestADetachedReplicaIsAskedForWhatItHasNotBegun(t *testing.T) {
	s := &scene{T: t, clock: newVirtualClock()}
	s.Batcher = batch.New(options{Limits: batch.Limits{MaxBatchSize: 2}, Clock: s.clock})
	var old []*textBatch
	s.replica = s.AttachReplica(batch.ReplicaOptions[string, string]{
		Slots: 1, Ahead: 1, Run: func(b *textBatch) { old = append(old, b) }, Recall: (*textBatch).Return,
	})
	begun, ahead := s.arrive("a"), s.arrive("b", "c")
	check(t, "batches at the replica", len(old), 2)
	detached := s.replica.Detach()
	s.Attach(1, func(b *textBatch) { s.running = append(s.running, b) })
	check(t, "what the other computes meanwhile", s.rest(), "b c: full")
	check(t, "the answer of b", ahead[0].Out, "B")
	old[0].Finish([]string{"A"}, nil)
	<-detached
	check(t, "the answer of a", begun[0].Out, "A")
}
