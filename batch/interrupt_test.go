package batch_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shoalserve/shoal/batch"
)

var errLate = errors.New("took too long")

// deaf is a Func that computes "stuck" until release is closed, whatever becomes
// of its context, and tells on ended why that ended.
func deaf(release <-chan struct{}, ended chan<- error) batch.Func[string, string] {
	return func(ctx context.Context, in []string) ([]string, error) {
		if in[0] == "stuck" {
			<-ctx.Done()
			ended <- context.Cause(ctx)
			<-release
		}
		return in, nil
	}
}

func TestAnInterruptedBatchFailsAtOnceAndItsFuncIsLeftBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release, ended := make(chan struct{}), make(chan error, 1)
		b := batch.New(batch.Options[string, string]{Limits: batch.Limits{MaxBatchSize: 1}})
		runner := batch.NewRunner(2, deaf(release, ended))
		replica := b.Attach(2, runner.Run)
		failed := make(chan error, 1)
		began := time.Now()
		go func() {
			_, err := b.Do(t.Context(), "stuck")
			failed <- err
		}()
		synctest.Wait()
		time.Sleep(time.Minute)
		if _, err := b.Do(t.Context(), "well"); err != nil {
			t.Fatal(err)
		}
		a := replica.Activity()
		if a.Oldest != 1 || !a.Since.Equal(began) || a.Queries != 1 || a.Batches != 1 || a.Answered != 1 {
			t.Errorf("activity %+v", a)
		}

		detached := replica.Detach()
		if runner.Interrupt(99, errLate) || !runner.Interrupt(a.Oldest, errLate) || runner.Interrupt(a.Oldest, errLate) {
			t.Error("only the batch that is computed can be interrupted, and only once")
		}
		if err := <-failed; !errors.Is(err, errLate) {
			t.Errorf("the query got %v", err)
		}
		if err := <-ended; !errors.Is(err, errLate) {
			t.Errorf("the context ended because of %v", err)
		}
		<-detached
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := runner.Stop(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the stop, while the function is stuck, said %v", err)
		}
		close(release)
		<-runner.Done()
	})
}

func TestABatchThatIsAnsweredCannotBeInterrupted(t *testing.T) {
	for range 200 {
		b := batch.New(batch.Options[string, string]{})
		runner := batch.NewRunner(1, func(_ context.Context, in []string) ([]string, error) { return in, nil })
		replica := b.Attach(1, runner.Run)
		done := make(chan struct{})
		var out string
		var err error
		go func() {
			defer close(done)
			out, err = b.Do(t.Context(), "q")
		}()
		interrupted := runner.Interrupt(1, errLate)
		<-done
		if interrupted != errors.Is(err, errLate) || (!interrupted && out != "q") {
			t.Fatalf("interrupted: %v, answer %q, error %v", interrupted, out, err)
		}
		<-replica.Detach()
		if err := runner.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

func TestTheOtherBatchesOfAnInterruptedRunnerAreLostWhenItsStopHasNoMoreTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release, ended := make(chan struct{}), make(chan error, 2)
		b := batch.New(batch.Options[string, string]{Limits: batch.Limits{MaxBatchSize: 1}})
		runner := batch.NewRunner(2, deaf(release, ended))
		replica := b.Attach(2, runner.Run)
		first, second := make(chan error, 1), make(chan string, 1)
		go func() {
			_, err := b.Do(t.Context(), "stuck")
			first <- err
		}()
		synctest.Wait()
		go func() {
			out, _ := b.Do(t.Context(), "stuck")
			second <- out
		}()
		synctest.Wait()
		replica.Detach()
		runner.Interrupt(1, errLate)
		if err := <-first; !errors.Is(err, errLate) {
			t.Errorf("the batch that was interrupted got %v", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := runner.Stop(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the stop said %v", err)
		}
		other := b.AttachFunc(1, func(context.Context, []string) ([]string, error) { return []string{"elsewhere"}, nil })
		if out := <-second; out != "elsewhere" {
			t.Errorf("the other got the answer %q", out)
		}
		close(release)
		<-runner.Done()
		check(t, "stop", other.Stop(t.Context()), nil)
	})
}

func TestABatchThatWouldBeginAfterAStopWithoutTimeIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		delivered := make(chan struct{})
		deliver := sync.OnceFunc(func() { <-delivered })
		b := batch.New(batch.Options[string, string]{
			Limits: batch.Limits{MaxBatchSize: 1}, OnBatch: func(*batch.Batch[string, string]) { deliver() },
		})
		computed := 0
		replica := b.AttachFunc(1, func(_ context.Context, in []string) ([]string, error) {
			computed++
			return in, nil
		})
		go func() { _, _ = b.Do(t.Context(), "first") }()
		synctest.Wait() // the first is being delivered, so that the slot is free
		got := make(chan error, 1)
		go func() { _, err := b.Do(t.Context(), "second"); got <- err }()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := replica.Stop(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the stop said %v", err)
		}
		close(delivered)
		if err := <-got; !errors.Is(err, batch.ErrStopped) {
			t.Errorf("the second got %v", err)
		}
		synctest.Wait()
		check(t, "computed", computed, 1)
	})
}
