package batch_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"github.com/shoalserve/shoal/batch"
)

func TestABatcherThatRefusesFailsWhatWaitsAndFinishesWhatRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hopeless := errors.New("hopeless")
		release := make(chan struct{})
		b := batch.New(batch.Options[int, int]{Limits: batch.Limits{MaxBatchSize: 1}})
		replica := b.AttachFunc(1, func(_ context.Context, in []int) ([]int, error) {
			<-release
			return in, nil
		})
		do := func() <-chan error {
			failed := make(chan error, 1)
			go func() {
				_, err := b.Do(t.Context(), 1)
				failed <- err
			}()
			synctest.Wait()
			return failed
		}
		running, waiting := do(), do()
		b.Refuse(hopeless)
		if err := <-waiting; !errors.Is(err, hopeless) {
			t.Errorf("the query that waited got %v", err)
		}
		if err := <-do(); !errors.Is(err, hopeless) {
			t.Errorf("a new query got %v", err)
		}
		close(release)
		if err := <-running; err != nil {
			t.Errorf("the query that ran got %v", err)
		}
		b.Refuse(nil)
		if err := <-do(); err != nil {
			t.Errorf("once that ended a query got %v", err)
		}
		s := b.Stats()
		check(t, "refused", s.Refused, 1)
		check(t, "dropped", s.Dropped, 1)
		check(t, "answered", s.Answered, 2)
		if err := replica.Stop(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestABatcherThatRefusesFailsWhatWaitsForAnotherTry(t *testing.T) {
	hopeless := errors.New("hopeless")
	for name, order := range map[string][]string{
		"the batch failed before": {"fail", "refuse"},
		"it fails later":          {"refuse", "fail"},
		"it comes back later":     {"refuse", "return"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScene(t, options{Limits: batch.Limits{MaxBatchSize: 4}})
			s.arrive("busy")
			asked := s.arrive("a", "b")
			s.next()
			s.replica.Detach()
			want := hopeless
			for _, step := range order {
				switch step {
				case "refuse":
					s.Refuse(hopeless)
				case "return":
					s.running[0].Return()
				case "fail":
					s.running[0].Lost(errModel)
					if order[0] == "fail" {
						check(t, "queued", s.Load().Queued, 2)
					} else {
						want = errModel
					}
				}
			}
			for _, q := range asked {
				check(t, "Done", q.done, 1)
				check(t, "error", errors.Is(q.Err, want), true)
			}
			s.running = nil
			check(t, "drain", s.Drain(t.Context()), nil)
		})
	}
}

func TestAQueueWithoutAReplicaIsToldOfWheneverItIsLookedAt(t *testing.T) {
	told := 0
	b := batch.New(batch.Options[int, int]{OnStarved: func() { told++ }})
	q := &batch.Query[int, int]{Done: func(*batch.Query[int, int]) {}}
	check(t, "submit", b.Submit(q), nil)
	check(t, "told", told, 1)
	b.Update(batch.Limits{MaxBatchSize: 2}) // as when several calls are taken in at once
	check(t, "told", told, 2)
	check(t, "withdrawn", b.Withdraw(q), true)
}
