package serving_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shoalserve/shoal/internal/serving"
)

// slowly has each batch of m take so long.
func (m *mortal) slowly(d time.Duration) *mortal {
	m.computes(func(_ context.Context, in []string) ([]string, error) {
		time.Sleep(d)
		return in, nil
	})
	return m
}

func TestReplicasComeAndGoWithTheLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := (&mortal{}).slowly(time.Second)
		p := m.pool(t, serving.Config{MaxBatchSize: 1, MaxReplicas: 4, ScaleDownDelay: serving.Duration(30 * time.Second)})
		stop := make(chan struct{})
		failed := make(chan error, 8)
		for range 8 { // callers that ask again as soon as they are answered
			go func() {
				for {
					select {
					case <-stop:
						failed <- nil
						return
					default:
					}
					if _, err := p.Do(context.Background(), "q", "", 0); err != nil {
						failed <- err
						return
					}
				}
			}()
		}
		time.Sleep(20 * time.Second)
		if n := len(p.Status().Replicas); n != 4 {
			t.Errorf("%d replicas under a load for 8", n)
		}
		close(stop)
		for range 8 {
			if err := <-failed; err != nil {
				t.Error(err)
			}
		}
		time.Sleep(2 * time.Minute)
		s := p.Status()
		if n := len(s.Replicas); n != 1 {
			t.Errorf("%d replicas without a load", n)
		}
		if s.ScaleEvents["up"] == 0 || s.ScaleEvents["up"] > 3 || s.ScaleEvents["down"] == 0 || s.ScaleEvents["down"] > 2 {
			t.Errorf("events %v", s.ScaleEvents)
		}
	})
}

func TestReplicasThatCannotStartAreWantedAllTheSame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := (&mortal{}).slowly(time.Second)
		p := m.pool(t, serving.Config{MaxBatchSize: 1, MaxReplicas: 4})
		m.starting(func(context.Context, int) error { return errors.New("no memory") })
		var answers []<-chan error
		for range 20 {
			answers = append(answers, sent(p, "q"))
		}
		time.Sleep(10 * time.Second)
		if s := p.Status(); s.Wanted != 2 || len(s.Replicas) != 1 {
			t.Errorf("%d replicas, %d wanted", len(s.Replicas), s.Wanted)
		}
		for _, answer := range answers {
			if err := <-answer; err != nil {
				t.Error(err)
			}
		}
		time.Sleep(time.Second)
		if s := p.Status(); s.Wanted != 1 {
			t.Errorf("without a load %d are wanted", s.Wanted)
		}
	})
}

// idle is a pool that has gone to sleep.
func idle(t *testing.T, m *mortal, config serving.Config) *serving.Pool[string, string] {
	t.Helper()
	config.IdleTimeout = serving.Duration(time.Minute)
	p := m.pool(t, config)
	if err := <-sent(p, "q"); err != nil {
		t.Fatal(err)
	}
	time.Sleep(59 * time.Second)
	if n := len(p.Status().Replicas); n != max(1, config.NumReplicas) {
		t.Fatalf("%d replicas before the idle_timeout", n)
	}
	time.Sleep(30 * time.Second)
	if s := p.Status(); s.State != serving.StateIdle || len(s.Replicas) != 0 || s.Wanted != 0 {
		t.Fatalf("after the idle_timeout: %+v", s)
	}
	return p
}

func TestTheFirstQueriesOfAnIdleBackendAreHeldAndAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &mortal{}
		p := idle(t, m, serving.Config{NumReplicas: 2})
		m.starting(func(ctx context.Context, _ int) error {
			time.Sleep(3 * time.Second)
			return nil
		})
		began := time.Now()
		var answers []<-chan error
		for range 200 {
			answers = append(answers, sent(p, "q"))
		}
		synctest.Wait()
		if s := p.Status(); s.State != serving.StateStarting || s.Queued != 200 {
			t.Errorf("while it wakes: %s, %d queued", s.State, s.Queued)
		}
		for _, answer := range answers {
			if err := <-answer; err != nil {
				t.Error(err)
			}
		}
		if took := time.Since(began); took != 3*time.Second {
			t.Errorf("it took %v", took)
		}
		time.Sleep(10 * time.Second)
		s := p.Status()
		if s.State != serving.StateReady || len(s.Replicas) != 2 || s.Wanted != 2 || s.ScaleEvents["wake"] != 1 {
			t.Errorf("awake: %+v", s)
		}
		time.Sleep(2 * time.Minute)
		if s := p.Status(); s.State != serving.StateIdle || s.ScaleEvents["idle"] != 2 {
			t.Errorf("later: %+v", s)
		}
	})
}

func TestAnIdleBackendThatCannotBeWokenSaysSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &mortal{}
		p := idle(t, m, serving.Config{})
		m.starting(func(context.Context, int) error {
			time.Sleep(time.Second)
			return errors.New("the weights are gone")
		})
		first, second := sent(p, "q"), sent(p, "q")
		for _, err := range []error{<-first, <-second, <-sent(p, "q")} { // the third does not try again
			problem := serving.Describe(err)
			if problem.Code != serving.Unavailable || problem.Header.Get("Retry-After") == "" {
				t.Errorf("got %v, %v", err, problem.Header)
			}
		}
		if s := p.Status(); s.State != serving.StateFailed || s.Error == "" || s.ScaleEvents["wake_failed"] != 1 {
			t.Errorf("status %+v", s)
		}
		m.starting(nil)
		time.Sleep(10 * time.Second)
		if s := p.Status(); s.State != serving.StateIdle {
			t.Errorf("status %+v", s)
		}
		if err := <-sent(p, "q"); err != nil {
			t.Errorf("once it starts a query got %v", err)
		}
	})
}

func TestACloseWhileABackendWakesAnswersWhatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &mortal{}
		p := idle(t, m, serving.Config{})
		m.starting(func(context.Context, int) error { time.Sleep(5 * time.Second); return nil })
		waits := sent(p, "q")
		synctest.Wait()
		closePool(t, p)
		if err := <-waits; err != nil {
			t.Errorf("the query that was held got %v", err)
		}
	})
}

func TestACloseThatHasNoTimeDoesNotWaitForABackendToWake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &mortal{}
		p := idle(t, m, serving.Config{})
		m.starting(func(ctx context.Context, _ int) error { <-ctx.Done(); return ctx.Err() })
		waits := sent(p, "q")
		synctest.Wait()
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		if err := p.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the close said %v", err)
		}
		if err := <-waits; err == nil {
			t.Error("the query was answered though nothing started")
		}
	})
}

func TestAQueryMeetsABackendThatIsJustFallingAsleep(t *testing.T) {
	// Queries come in steps that drift over the moment at which it falls asleep.
	synctest.Test(t, func(t *testing.T) {
		m := (&mortal{}).slowly(time.Millisecond)
		p := m.pool(t, serving.Config{IdleTimeout: serving.Duration(100 * time.Millisecond)})
		for i := range 400 {
			if err := <-sent(p, "q"); err != nil {
				t.Fatalf("query %d: %v", i, err)
			}
			time.Sleep(100*time.Millisecond + time.Duration(i-100)*200*time.Microsecond)
		}
		if n := p.Status().ScaleEvents["wake"]; n < 10 {
			t.Errorf("it woke %d times only", n)
		}
	})
}

func TestAChangeOfConfigWakesAnIdleBackend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &mortal{}
		p := idle(t, m, serving.Config{})
		config := p.Config()
		config.NumReplicas, config.MaxReplicas = 3, 5
		if err := p.Update(t.Context(), config); err != nil {
			t.Fatal(err)
		}
		if s := p.Status(); s.State != serving.StateReady || len(s.Replicas) != 3 {
			t.Errorf("status %+v", s)
		}
		time.Sleep(2 * time.Minute)
		if s := p.Status(); s.State != serving.StateIdle {
			t.Errorf("status %+v", s)
		}
		config.IdleTimeout = 0
		if err := p.Update(t.Context(), config); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		if s := p.Status(); len(s.Replicas) != 3 {
			t.Errorf("without an idle_timeout: %+v", s)
		}
	})
}

func TestScalingConfigsThatMakeNoSense(t *testing.T) {
	for patch, want := range map[string]string{
		`{"num_replicas": 4, "max_replicas": 2}`: "max_replicas (2) must not be less than num_replicas (4)",
		`{"max_replicas": 2000}`:                 "max_replicas must be between",
		`{"idle_timeout": "1ms"}`:                "idle_timeout must be at least 100ms",
		`{"scale_up_queue_time": -1}`:            "scale_up_queue_time",
		`{"scale_down_delay": -1}`:               "scale_down_delay",
		`{"batch_timeout": "1us"}`:               "batch_timeout must be at least 1ms",
		`{"heartbeat_timeout": "1ms"}`:           "heartbeat_timeout must be at least 100ms",
		`{"memory_limit": "1MiB"}`:               "memory_limit must be at least 32MiB",
		`{"cpu_time_limit": "1ms"}`:              "cpu_time_limit must be at least 1s",
		`{"open_files_limit": 3}`:                "open_files_limit must be at least 16",
	} {
		if _, err := serving.DecodeConfig(serving.Config{}, []byte(patch)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v", patch, err)
		}
	}
}
