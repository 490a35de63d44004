package batch_test

import (
	"context"
	"errors"
	"testing"

	"github.com/shoalserve/shoal/batch"
)

// idly submits a query that only an idle replica may compute.
func (s *scene) idly(in string) (*outcome, bool) {
	s.Helper()
	o := newOutcome(nil, in)
	started, err := s.SubmitIdle(&o.textQuery)
	check(s, "error", err, nil)
	return o, started
}

func TestAnIdleReplicaComputesAQueryThatCountsForLittle(t *testing.T) {
	s := newScene(t, options{})
	q, started := s.idly("a")
	check(t, "started", started, true)
	check(t, "batches that run", len(s.running), 1)
	behind := s.arrive("b", "c") // shares no batch with it
	check(t, "queries of its batch", len(s.running[0].Queries), 1)
	s.running[0].Finish([]string{"A"}, nil)
	check(t, "done", q.done, 1)
	check(t, "answer", q.Out, "A")
	check(t, "the size of the next batch", len(s.running[1].Queries), 2)
	s.running[1].Finish([]string{"B", "C"}, nil)
	check(t, "done", behind[0].done+behind[1].done, 2)
	check(t, "admitted", s.Stats().Admitted, 3)
}

func TestAQueryThatCountsForLittleNeverWaitsBeforeOthers(t *testing.T) {
	s := newScene(t, options{Limits: batch.Limits{MaxBatchSize: 1}})
	s.arrive("a")
	q, started := s.idly("x")
	check(t, "started at a busy replica", started, false)
	waits := s.arrive("b")
	s.running[0].Finish([]string{"A"}, nil)
	if _, started := s.idly("x"); started {
		t.Error("it started before one that waits")
	}
	s.running[1].Finish([]string{"B"}, nil)
	check(t, "done", waits[0].done, 1)
	check(t, "done", q.done, 0)
	check(t, "admitted", s.Stats().Admitted, 2)
	s.replica.Detach()
	if _, started := s.idly("x"); started {
		t.Error("it started without a replica")
	}
}

func TestAQueryThatCountsForLittleIsComputedOnce(t *testing.T) {
	broken := errors.New("broken")
	for name, end := range map[string]func(s *scene, b *textBatch){
		"raised": func(_ *scene, b *textBatch) { b.Finish(nil, broken) },
		"died":   func(s *scene, b *textBatch) { s.replica.Detach(); b.Lost(broken) },
	} {
		t.Run(name, func(t *testing.T) {
			s := newScene(t, options{})
			s.attachAhead()
			q, _ := s.idly("a")
			end(s, s.running[0])
			check(t, "done", q.done, 1)
			check(t, "batches", len(s.running), 1)
			if !errors.Is(q.Err, broken) {
				t.Errorf("it got %v", q.Err)
			}
			check(t, "isolated", s.Stats().Isolated, 0)
		})
	}
}

func TestAQueryThatCountsForLittleIsNotPutBack(t *testing.T) {
	s := newScene(t, options{})
	q, _ := s.idly("a")
	behind := s.arrive("b")
	s.running[0].Return()
	check(t, "done", q.done, 1)
	if !errors.Is(q.Err, context.Canceled) {
		t.Errorf("it got %v", q.Err)
	}
	s.running[1].Finish([]string{"B"}, nil)
	check(t, "done", behind[0].done, 1)
	stats := s.Stats()
	check(t, "dropped", stats.Dropped, 1)
	check(t, "admitted", stats.Admitted, stats.Dropped+stats.Answered)
	check(t, "drained", s.Drain(t.Context()), nil)
}

func TestABatcherThatTakesNothingInTakesNothingThatCountsForLittle(t *testing.T) {
	refused := errors.New("refused")
	s := newScene(t, options{Name: "m"})
	s.Refuse(refused)
	started, err := s.SubmitIdle(&newOutcome(nil, "a").textQuery)
	check(t, "started", started, false)
	check(t, "error", err, refused)
	s.Refuse(nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.SubmitIdle(&newOutcome(ctx, "a").textQuery); !errors.Is(err, context.Canceled) {
		t.Errorf("a query whose caller has left got %v", err)
	}
	check(t, "drained", s.Drain(t.Context()), nil)
	if _, err := s.SubmitIdle(&newOutcome(nil, "a").textQuery); !errors.Is(err, batch.ErrDraining) {
		t.Errorf("a query at the end got %v", err)
	}
	check(t, "admitted", s.Stats().Admitted, uint64(0))
}

func TestAQueryThatCountsForLittleIsNoLargerThanABatch(t *testing.T) {
	s := newScene(t, options{Name: "m", Limits: batch.Limits{MaxBatchSize: 2}, Cost: func(in string) int { return len(in) }})
	started, err := s.SubmitIdle(&newOutcome(nil, "abc").textQuery)
	check(t, "started", started, false)
	check(t, "error", err.Error(), (&batch.TooLargeError{Name: "m", Cost: 3, Max: 2}).Error())
	check(t, "drained", s.Drain(t.Context()), nil)
}
