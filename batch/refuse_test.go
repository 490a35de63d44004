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
