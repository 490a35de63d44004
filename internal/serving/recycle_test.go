package serving_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shoalserve/shoal/internal/serving"
)

func recycled(r *rolled) uint64 { return r.Status().RestartReasons[serving.ReasonRecycle] }

func TestAReplicaThatAnsweredSoManyBatchesIsReplacedWithoutALostQuery(t *testing.T) {
	for name, c := range map[string]struct {
		surge *int
		most  int
	}{"a fresh one first": {nil, 3}, "the old one first": {surge(0), 2}} {
		t.Run(name, func(t *testing.T) {
			r := newRolled(t, serving.Config{NumReplicas: 2, RecycleAfter: 10, MaxSurge: c.surge})
			until(t, func() bool { return recycled(r) >= 3 }, "replicas to be recycled")
			r.more(t, "v1")
			r.census.mu.Lock()
			defer r.census.mu.Unlock()
			if r.census.most > c.most {
				t.Errorf("%d replicas at a time, want %d", r.census.most, c.most)
			}
		})
	}
}

func TestAReplicaWhoseSuccessorCannotStartWorksOn(t *testing.T) {
	r := newRolled(t, serving.Config{})
	r.census.mu.Lock()
	r.fail["v1"] = 0
	r.census.mu.Unlock()
	if err := r.Update(t.Context(), serving.Config{RecycleAfter: 1}); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(1500 * time.Millisecond); time.Now().Before(deadline); { // several looks of the scaler
		r.more(t, "v1")
	}
	if n := recycled(r); n > 0 {
		t.Errorf("%d were recycled", n)
	}
	r.census.mu.Lock()
	delete(r.fail, "v1")
	r.census.mu.Unlock()
	until(t, func() bool { return recycled(r) > 0 }, "another attempt")
}

func TestARecycleAfterOfLessThanNothingIsRefused(t *testing.T) {
	var refusal *serving.Error
	if err := (serving.Config{RecycleAfter: -1}).Validate(); !errors.As(err, &refusal) || refusal.Code != serving.InvalidArgument {
		t.Errorf("got %v", err)
	}
}

func TestABackendIsNotIdleBecauseARecyclingTookLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		starts := 0
		m := &mortal{}
		m.starting(func(context.Context, int) error {
			if starts++; starts > 1 {
				time.Sleep(2 * time.Minute)
			}
			return nil
		})
		config := serving.Config{MaxBatchSize: 1, IdleTimeout: serving.Duration(time.Minute), RecycleAfter: 10}
		p, err := serving.NewPool(t.Context(), "m", serving.Model[string, string]{Kind: "go", Runtime: m}, config, serving.Deps{})
		if err != nil {
			t.Fatal(err)
		}
		for range 100 { // never idle for a minute
			if _, err := p.Do(context.Background(), "q", "", 0); err != nil {
				t.Error(err)
			}
			time.Sleep(5 * time.Second)
		}
		if s := p.Status(); s.ScaleEvents["idle"] > 0 || s.RestartReasons[serving.ReasonRecycle] == 0 {
			t.Errorf("scaled %v, restarted %v", s.ScaleEvents, s.RestartReasons)
		}
		closePool(t, p)
	})
}

func TestAChangeWaitsForALongBatch(t *testing.T) {
	for name, next := range map[string]serving.Config{
		"at once":            {Timeout: serving.Duration(10 * time.Minute), MaxConcurrentBatches: 2},
		"with less time":     {Timeout: serving.Duration(time.Second), MaxConcurrentBatches: 2},
		"replica by replica": {Timeout: serving.Duration(10 * time.Minute), MaxConcurrentBatches: 2, MaxSurge: surge(0)},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := goPool(t, serving.Config{Timeout: serving.Duration(10 * time.Minute)}, nil, func(_ context.Context, in []string) ([]string, error) {
					time.Sleep(90 * time.Second)
					return in, nil
				})
				slow := sent(p, "slow")
				synctest.Wait()
				if err := p.Update(t.Context(), next); err != nil {
					t.Error(err)
				}
				if err := <-slow; err != nil {
					t.Error(err)
				}
				closePool(t, p)
			})
		})
	}
}
