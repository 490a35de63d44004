package sim_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/shoalserve/shoal/batch/sim"
)

const (
	us = time.Microsecond
	ms = time.Millisecond
)

// model is a service time as a function of batch size.
type model struct {
	name     string
	service  sim.Service
	unit     time.Duration // a typical time of a small batch
	capacity float64       // queries a second, in batches of 32
}

func models() []model {
	return []model{
		{"flat", sim.Jitter(sim.Flat(5*ms), 0.02), 5 * ms, 32 / 0.005},
		{"short", sim.Jitter(sim.Flat(1*ms), 0.05), 1 * ms, 32 / 0.001},
		{"linear", sim.Jitter(sim.Linear(2*ms, 200*us), 0.02), 2 * ms, 32 / 0.0084},
		{"proportional", sim.Jitter(sim.Linear(200*us, 500*us), 0.02), 1 * ms, 32 / 0.0162},
		{"stepped", sim.Jitter(sim.Stepped(8, 2*ms), 0.02), 2 * ms, 32 / 0.008},
	}
}

// over is how a client comes back over HTTP.
var over = sim.Sum(sim.Exactly(50*us), sim.Exponential(60*us))

const front = 25 * us

// grid is everything that the policy must be good for.
func grid() (all []sim.Scenario) {
	for _, m := range models() {
		add := func(replicas int, name string, loads ...sim.Load) {
			if m.name == "stepped" {
				// Leaving at once has rhythms of different worth here, and stays in the
				// one that it happens to begin with until something disturbs it.
				loads = append(loads, sim.Poisson(m.capacity/100))
			}
			all = append(all, sim.Scenario{
				Name: fmt.Sprintf("%s, %d replicas, %s", m.name, replicas, name), Service: m.service, Replicas: replicas, Loads: loads,
			})
		}
		for _, n := range []int{1, 2, 3, 5, 8, 16, 24, 32, 48, 64, 256} {
			add(1, fmt.Sprintf("%d clients", n), sim.Closed(n, front, over))
		}
		for _, n := range []int{2, 8, 32, 64} {
			add(2, fmt.Sprintf("%d clients", n), sim.Closed(n, front, over))
			add(4, fmt.Sprintf("%d clients", n), sim.Closed(n, front, over))
		}
		for _, n := range []int{4, 16, 32} {
			for _, think := range []time.Duration{m.unit / 4, m.unit, 4 * m.unit} {
				add(1, fmt.Sprintf("%d clients that think %v", n, think), sim.Closed(n, front, sim.Exponential(think)))
			}
			add(1, fmt.Sprintf("%d clients and 10%%", n), sim.Closed(n, front, over), sim.Poisson(m.capacity/10))
			add(1, fmt.Sprintf("%d clients and as many that think", n), sim.Closed(n, front, over), sim.Closed(n, front, sim.Exponential(m.unit)))
			add(1, fmt.Sprintf("%d clients that come and go", n), sim.Churn(n, 20, sim.Exponential(50*ms), front, over))
		}
		for _, load := range []float64{.02, .1, .3, .5, .7, .9, 1, 1.2} {
			add(1, fmt.Sprintf("%.0f%%", load*100), sim.Poisson(load*m.capacity))
			add(3, fmt.Sprintf("%.0f%%", load*100), sim.Poisson(3*load*m.capacity))
		}
		add(1, "bursts of 8", sim.Bursts(8, 500*us, sim.Exponential(4*m.unit)))
		add(1, "bursts of 50", sim.Bursts(50, 1*ms, sim.Exactly(8*m.unit)))
	}
	return all
}

// eachOf runs do for all scenarios, in parallel.
func eachOf(t *testing.T, scenarios []sim.Scenario, do func(t *testing.T, s sim.Scenario)) {
	for i, s := range scenarios {
		if i%everyNth > 0 {
			continue
		}
		t.Run(s.Name, func(t *testing.T) {
			t.Parallel()
			do(t, s)
		})
	}
}

// average is the mean result over seeds.
type average struct{ rate, mean, p99 float64 }

func run(s sim.Scenario, p func() sim.Policy) (a average) {
	seeds := uint64(4)
	if strings.HasPrefix(s.Name, "stepped") {
		seeds = 16 // see grid: chance decides which rhythm a loop falls into
	}
	s.WarmUp, s.Length = time.Second, time.Second
	for seed := range seeds {
		s.Seed = seed + 1
		r := sim.Run(s, p())
		a.rate += r.Rate / float64(seeds)
		a.mean += r.Mean.Seconds() * 1e3 / float64(seeds)
		a.p99 += r.P99.Seconds() * 1e3 / float64(seeds)
	}
	return a
}

// Whatever comes, the policy answers as many as leaving at once does, as soon.
// The tail may get longer where the mean gets shorter for it, and a little where
// trials go on.
func TestLearnedIsNeverWorseThanLeavingAtOnce(t *testing.T) {
	var mu sync.Mutex
	var ratios, n, tail float64
	eachOf(t, grid(), func(t *testing.T, s sim.Scenario) {
		once, learned := run(s, sim.AtOnce), run(s, sim.Learned)
		tolerance := 0.03
		if strings.HasPrefix(s.Name, "stepped") {
			tolerance = 0.05
		}
		if learned.rate < (1-tolerance)*once.rate {
			t.Errorf("%.0f answers/s, leaving at once gives %.0f", learned.rate, once.rate)
		}
		if learned.mean > (1+tolerance)*once.mean {
			t.Errorf("a mean of %.3f ms, leaving at once gives %.3f", learned.mean, once.mean)
		}
		if learned.p99 > 1.25*once.p99 && learned.mean > 0.95*once.mean {
			t.Errorf("a p99 of %.3f ms, leaving at once gives %.3f, and means of %.3f and %.3f", learned.p99, once.p99, learned.mean, once.mean)
		}
		mu.Lock()
		defer mu.Unlock()
		ratios += learned.mean / once.mean
		n++
		tail = max(tail, learned.p99/once.p99)
	})
	t.Cleanup(func() {
		t.Logf("%.0f scenarios: means are %.3f of those of leaving at once, a p99 at most %.2f", n, ratios/n, tail)
	})
}

// A model that takes 5 ms whatever the batch, behind HTTP on few cores.
func TestLearnedNearlyDoublesAClosedLoop(t *testing.T) {
	for clients, least := range map[int]float64{8: 1.75, 16: 1.75, 24: 1.7} {
		s := sim.Scenario{Service: sim.Jitter(sim.Flat(5*ms), 0.02), Loads: []sim.Load{sim.Closed(clients, front, over)}}
		once, learned := run(s, sim.AtOnce), run(s, sim.Learned)
		if learned.rate < least*once.rate || learned.mean > once.mean/least {
			t.Errorf("%d clients: %.0f answers/s and %.2f ms, leaving at once gives %.0f and %.2f", clients, learned.rate, learned.mean, once.rate, once.mean)
		}
	}
}

// A pause of the machine says nothing about holds and must not end them.
func TestLearnedBearsPauses(t *testing.T) {
	s := sim.Scenario{
		Service: sim.Pauses(sim.Jitter(sim.Flat(5*ms), 0.05), 50, 30*ms), Loads: []sim.Load{sim.Closed(16, front, over)},
		Length: 8 * time.Second, Seed: 5,
	}
	once, learned := sim.Run(s, sim.AtOnce()), sim.Run(s, sim.Learned())
	if learned.Rate < 1.5*once.Rate {
		t.Errorf("%.0f answers/s, leaving at once gives %.0f: %v", learned.Rate, once.Rate, learned.Reasons)
	}
}

func TestEqualSeedsGiveEqualResults(t *testing.T) {
	s := sim.Scenario{
		Seed: 3, Service: sim.Jitter(sim.Linear(1*ms, 100*us), 0.1), Replicas: 2,
		Loads: []sim.Load{sim.Closed(16, front, over), sim.Poisson(500), sim.Bursts(5, ms, sim.Exponential(10*ms))},
	}
	a, b := sim.Run(s, sim.Learned()), sim.Run(s, sim.Learned())
	if fmt.Sprint(a) != fmt.Sprint(b) {
		t.Errorf("\n%+v\n%+v", a, b)
	}
	s.Seed = 4
	if c := sim.Run(s, sim.Learned()); fmt.Sprint(a) == fmt.Sprint(c) {
		t.Error("another seed gives the same")
	}
}
