package sim_test

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/shoalserve/shoal/batch/sim"
)

// Whatever comes: each query is answered once, and no replica is kept waiting
// longer than a batch takes, or than the objective allows.
func TestLearnedKeepsThePromises(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		micros := func(low, high int, label string) time.Duration {
			return time.Duration(rapid.IntRange(low, high).Draw(t, label)) * us
		}
		deviation := rapid.Float64Range(0, 0.3).Draw(t, "deviation")
		s := sim.Scenario{
			Seed:     rapid.Uint64().Draw(t, "seed"),
			Service:  sim.Jitter(sim.Linear(micros(50, 8000, "fixed"), micros(0, 300, "each")), deviation),
			Replicas: rapid.IntRange(1, 3).Draw(t, "replicas"),
			Slots:    rapid.IntRange(1, 2).Draw(t, "slots"),
			MaxBatch: rapid.SampledFrom([]int{1, 2, 8, 32, 100}).Draw(t, "max"),
			SLO:      rapid.SampledFrom([]time.Duration{0, 0, 10 * ms, 40 * ms}).Draw(t, "objective"),
			WarmUp:   200 * ms, Length: time.Second,
		}
		clients := rapid.IntRange(0, 40).Draw(t, "clients")
		s.Loads = append(s.Loads, sim.Closed(clients, 20*us, sim.Exponential(micros(1, 5000, "think"))))
		if rapid.Bool().Draw(t, "open") {
			s.Loads = append(s.Loads, sim.Poisson(float64(rapid.IntRange(1, 3000).Draw(t, "rate"))))
		}
		if rapid.Bool().Draw(t, "bursts") {
			size := rapid.IntRange(1, 60).Draw(t, "burst")
			s.Loads = append(s.Loads, sim.Bursts(size, micros(0, 3000, "spread"), sim.Exponential(30*ms)))
		}
		if r := keepsThePromises(t, s); r.Rate == 0 && clients > 0 {
			t.Fatalf("nothing was answered")
		}
	})
}

// The promises say nothing where nothing is ever held.
func TestLearnedKeepsThePromisesWhereItHolds(t *testing.T) {
	s := sim.Scenario{
		Service: sim.Linear(5*ms, 0), Replicas: 1, Slots: 1, MaxBatch: 32, WarmUp: 200 * ms, Length: time.Second,
		Loads: []sim.Load{sim.Closed(16, 20*us, sim.Exponential(200*us))},
	}
	if r := keepsThePromises(t, s); r.Reasons["hold"] == 0 {
		t.Errorf("nothing was held: the test shows nothing: %v", r.Reasons)
	}
}

// keepsThePromises runs a scenario, in which the policy may not hold for longer than a
// batch takes, nor for nothing, nor lose a query.
func keepsThePromises(t interface{ Fatalf(string, ...any) }, s sim.Scenario) sim.Result {
	r := sim.Run(s, sim.Learned())
	most := r.LongestBatch
	if s.SLO > 0 {
		most = s.SLO
	}
	if r.LongestHold > most {
		t.Fatalf("a replica was free for %v while queries waited; the longest batch took %v: %v", r.LongestHold, r.LongestBatch, r.Reasons)
	}
	if s.MaxBatch == 1 && r.LongestHold > 0 {
		t.Fatalf("a hold of %v for batches of one", r.LongestHold)
	}
	if r.Unanswered < 0 {
		t.Fatalf("%d queries too many were answered", -r.Unanswered)
	}
	return r
}
