package sim_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/shoalserve/shoal/batch/sim"
)

// overload is a model of 80 queries/s, each of use for a second.
func overload(seed uint64, late bool, loads ...sim.Load) sim.Scenario {
	return sim.Scenario{
		Seed: seed, Service: sim.Jitter(sim.Flat(50*time.Millisecond), 0.1), MaxBatch: 4, Deadline: time.Second, ComputeLate: late,
		Loads: loads, WarmUp: 5 * time.Second, Length: 30 * time.Second,
	}
}

func TestOverloadDoesNotLowerWhatIsOfUse(t *testing.T) {
	for _, times := range []float64{1.2, 2, 10} {
		t.Run(fmt.Sprintf("%v times the capacity", times), func(t *testing.T) {
			for seed := range uint64(3) {
				load := sim.Poisson(80 * times)
				now := sim.Run(overload(seed, false, load), sim.Learned())
				before := sim.Run(overload(seed, true, load), sim.Learned())
				t.Logf("of use %.1f/s, refused %d; without admission by deadlines %.1f/s, refused %d", now.Good, now.Refused, before.Good, before.Refused)
				if now.Good < 0.93*80 || now.Good < before.Good || now.Good < 0.97*now.Rate {
					t.Errorf("%.1f of %.1f answers/s are of use, %.1f without admission by deadlines", now.Good, now.Rate, before.Good)
				}
				if now.Refused == 0 {
					t.Error("nobody was refused")
				}
			}
		})
	}
}

// What an overload leaves behind, queries that will be in time, is computed soon.
func TestAllIsWellWhenTheLoadGoes(t *testing.T) {
	for seed := range uint64(5) {
		s := overload(seed, false, sim.Poisson(40), sim.Between(5*time.Second, 15*time.Second, sim.Poisson(800)))
		s.WarmUp, s.Length = 18*time.Second, 10*time.Second
		after := sim.Run(s, sim.Learned())
		s.Loads = s.Loads[:1]
		never := sim.Run(s, sim.Learned())
		if after.P99 > never.P99+100*time.Millisecond || after.Good < 0.97*never.Good {
			t.Errorf("p99 %v, of use %.1f/s; without the overload before %v, %.1f/s", after.P99, after.Good, never.P99, never.Good)
		}
	}
}
