package serving_test

import (
	"errors"
	"testing"
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
