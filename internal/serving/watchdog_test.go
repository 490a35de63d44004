package serving_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shoalserve/shoal/batch"
	"github.com/shoalserve/shoal/internal/runtime/gofunc"
	"github.com/shoalserve/shoal/internal/serving"
)

// goPool runs a Go function in a bubble of [synctest], where time is not real.
func goPool(t *testing.T, config serving.Config, log *slog.Logger, fn batch.Func[string, string]) *serving.Pool[string, string] {
	t.Helper()
	runtime := gofunc.Runtime[string, string]{Batched: true, New: func(context.Context) (batch.Func[string, string], func() error, error) {
		return fn, nil, nil
	}}
	p, err := serving.NewPool(t.Context(), "m", serving.Model[string, string]{Kind: "go", Runtime: runtime}, config, serving.Deps{Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func closePool(t *testing.T, p *serving.Pool[string, string]) {
	t.Helper()
	if err := p.Close(context.Background()); err != nil {
		t.Errorf("closing: %v", err)
	}
}

// sent sends a query and returns where its error will come.
func sent(p *serving.Pool[string, string], in string) <-chan error {
	failed := make(chan error, 1)
	go func() { // ends with the answer
		_, err := p.Do(context.Background(), in, "", 0)
		failed <- err
	}()
	return failed
}

func TestABatchBeyondItsTimeoutIsFailedWhenItIsDue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		p := goPool(t, serving.Config{MaxBatchSize: 1, BatchTimeout: serving.Duration(2 * time.Second)}, nil,
			func(_ context.Context, in []string) ([]string, error) {
				switch in[0] {
				case "stuck":
					<-release
				case "slow":
					time.Sleep(1999 * time.Millisecond)
				}
				return in, nil
			})
		time.Sleep(700 * time.Millisecond) // batches begin at any moment, not when the watchdog looks
		for range 3 {                      // however many follow each other
			if err := <-sent(p, "slow"); err != nil {
				t.Errorf("a batch in time got %v", err)
			}
		}
		began := time.Now()
		stuck := sent(p, "stuck")
		synctest.Wait()
		waits := sent(p, "well")
		if err := <-stuck; serving.Describe(err).Code != serving.BatchTimeout || serving.Describe(err).Status != 504 {
			t.Errorf("the query that hung got %v", err)
		}
		if took := time.Since(began); took != 2*time.Second {
			t.Errorf("after %v", took)
		}
		if err := <-waits; err != nil {
			t.Errorf("the query behind it got %v", err)
		}
		if s := p.Status(); s.Stuck != 1 || s.RestartReasons[serving.ReasonBatchTimeout] != 1 || s.Restarts != 1 {
			t.Errorf("status %+v", s)
		}
		close(release)
		synctest.Wait()
		if s := p.Status(); s.Stuck != 0 {
			t.Errorf("%d are stuck though the function returned", s.Stuck)
		}
		closePool(t, p)
	})
}

func TestTheOtherBatchesOfAReplicaThatIsGivenUpEndWell(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := goPool(t, serving.Config{MaxBatchSize: 1, MaxConcurrentBatches: 2, BatchTimeout: serving.Duration(2 * time.Second)}, nil,
			func(ctx context.Context, in []string) ([]string, error) {
				if in[0] == "stuck" {
					<-ctx.Done() // which it obeys
					return nil, context.Cause(ctx)
				}
				time.Sleep(1500 * time.Millisecond)
				return in, nil
			})
		stuck := sent(p, "stuck")
		time.Sleep(time.Second)
		other := sent(p, "other")
		if err := <-stuck; serving.Describe(err).Code != serving.BatchTimeout {
			t.Errorf("the query that hung got %v", err)
		}
		if err := <-other; err != nil {
			t.Errorf("the query beside it got %v", err)
		}
		synctest.Wait()
		if s := p.Status(); s.Stuck != 0 || s.Restarts != 1 {
			t.Errorf("status %+v", s)
		}
		closePool(t, p)
	})
}

func TestOnlySoManyReplicasAreLeftBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		p := goPool(t, serving.Config{MaxBatchSize: 1, BatchTimeout: serving.Duration(time.Second)}, nil,
			func(_ context.Context, in []string) ([]string, error) {
				if in[0] == "stuck" {
					<-release
				}
				return in, nil
			})
		for range 8 {
			if err := <-sent(p, "well"); err != nil { // or it would be a crash loop
				t.Fatal(err)
			}
			if err := <-sent(p, "stuck"); serving.Describe(err).Code != serving.BatchTimeout {
				t.Fatal(err)
			}
		}
		waits := sent(p, "well") // it comes before anybody knows
		time.Sleep(10 * time.Minute)
		for _, err := range []error{<-waits, <-sent(p, "late")} {
			problem := serving.Describe(err)
			if problem.Code != serving.Unavailable || problem.Header.Get("Retry-After") == "" {
				t.Errorf("a query got %v, %v", err, problem.Header)
			}
			for _, part := range []string{`backend "m": 8 computations`, "make the model return", "restart the server"} {
				if !strings.Contains(problem.Message, part) {
					t.Errorf("%q does not say %q", problem.Message, part)
				}
			}
		}
		s := p.Status()
		if s.Stuck != 8 || s.State != serving.StateFailed || !strings.Contains(s.Replicas[0].Error, "8 computations") {
			t.Errorf("status %+v", s)
		}
		close(release)
		time.Sleep(2 * time.Minute)
		if err := <-sent(p, "well"); err != nil {
			t.Errorf("once the functions returned a query got %v", err)
		}
		closePool(t, p)
	})
}

func TestAHungBatchBesideTheOneThatWasGivenUpEndsToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		var calls atomic.Int32
		p := goPool(t, serving.Config{MaxBatchSize: 1, MaxConcurrentBatches: 2, BatchTimeout: serving.Duration(2 * time.Second)}, nil,
			func(_ context.Context, in []string) ([]string, error) {
				if in[0] == "stuck" || in[0] == "unlucky" && calls.Add(1) == 1 {
					<-release
				}
				return in, nil
			})
		began := time.Now()
		stuck := sent(p, "stuck")
		time.Sleep(time.Second)
		unlucky := sent(p, "unlucky")
		if err := <-stuck; serving.Describe(err).Code != serving.BatchTimeout || time.Since(began) != 2*time.Second {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
		if err := <-unlucky; err != nil || time.Since(began) != 4*time.Second {
			t.Errorf("the query beside it got, after %v, %v", time.Since(began), err)
		}
		if s := p.Status(); s.Stuck != 1 || s.Restarts != 1 {
			t.Errorf("status %+v", s)
		}
		close(release)
		synctest.Wait()
		if s := p.Status(); s.Stuck != 0 {
			t.Errorf("%d are stuck though the functions returned", s.Stuck)
		}
		closePool(t, p)
	})
}

func TestWhatADrainLeavesBehindIsCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		p := goPool(t, serving.Config{}, nil, func(_ context.Context, in []string) ([]string, error) {
			<-release
			return in, nil
		})
		stuck := sent(p, "stuck")
		synctest.Wait()
		if err := p.Update(t.Context(), serving.Config{MaxConcurrentBatches: 2}); err == nil { // which waits for a minute
			t.Error("the old replica ended well")
		}
		if err := <-stuck; !errors.Is(err, batch.ErrStopped) {
			t.Errorf("the query that was computed got %v", err)
		}
		if s := p.Status(); s.Stuck != 1 {
			t.Errorf("%d are stuck", s.Stuck)
		}
		close(release)
		synctest.Wait()
		if s := p.Status(); s.Stuck != 0 {
			t.Errorf("%d are stuck though the function returned", s.Stuck)
		}
		closePool(t, p)
	})
}

func TestABatchTimeoutThatIsSetLaterCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		logged := new(logBuffer)
		p := goPool(t, serving.Config{Timeout: serving.Duration(30 * time.Second)}, slog.New(slog.NewTextHandler(logged, nil)),
			func(ctx context.Context, _ []string) ([]string, error) {
				<-ctx.Done()
				return nil, context.Cause(ctx)
			})
		began := time.Now()
		stuck := sent(p, "stuck")
		time.Sleep(time.Minute)
		if n := strings.Count(logged.String(), "set batch_timeout"); n != 1 {
			t.Errorf("%d warnings of a batch that nobody waits for:\n%s", n, logged)
		}
		config := p.Config()
		config.BatchTimeout = serving.Duration(70 * time.Second)
		if err := p.Update(t.Context(), config); err != nil {
			t.Fatal(err)
		}
		if err := <-stuck; serving.Describe(err).Code != serving.BatchTimeout || time.Since(began) != 70*time.Second {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
		closePool(t, p)
	})
}

func TestABatchThatHangsWhileItsReplicaDrainsIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := goPool(t, serving.Config{BatchTimeout: serving.Duration(5 * time.Second)}, nil,
			func(ctx context.Context, _ []string) ([]string, error) {
				<-ctx.Done()
				return nil, context.Cause(ctx)
			})
		stuck := sent(p, "stuck")
		synctest.Wait()
		began := time.Now()
		closePool(t, p)
		if err := <-stuck; serving.Describe(err).Code != serving.BatchTimeout || time.Since(began) != 5*time.Second {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
	})
}

// logBuffer is a bytes.Buffer for several goroutines.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}
