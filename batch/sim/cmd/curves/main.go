// Command curves simulates departure policies beside each other and draws what
// callers would see, for docs/batching.md:
//
//	go run ./batch/sim/cmd/curves docs
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/shoalserve/shoal/batch/sim"
)

const (
	us = time.Microsecond
	ms = time.Millisecond
)

func main() {
	flag.Parse()
	if flag.NArg() != 1 {
		fmt.Fprintln(os.Stderr, "usage: curves DIRECTORY")
		os.Exit(2)
	}
	for name, figure := range map[string]figure{
		"batching-closed.svg": closed(), "batching-open.svg": open(), "batching-slo.svg": objective(),
	} {
		if err := os.WriteFile(filepath.Join(flag.Arg(0), name), figure.svg(), 0o644); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
}

// closed is a loop of clients over HTTP, and a model that takes 5 ms a batch.
func closed() figure {
	service := sim.Jitter(sim.Flat(5*ms), 0.02)
	clients := []float64{1, 2, 4, 6, 8, 12, 16, 20, 24, 28, 32, 36, 40, 48, 56, 64, 72, 80}
	f := figure{
		title:  "Clients that ask again when they are answered; a model that takes 5 ms a batch, at most 32",
		panels: []panel{{title: "answers a second", y: rate}, {title: "mean latency, ms", y: mean}},
	}
	return f.draw("clients", clients, rules(20*ms), func(n float64) sim.Scenario {
		think := sim.Sum(sim.Exactly(50*us), sim.Exponential(60*us))
		return sim.Scenario{Service: service, Loads: []sim.Load{sim.Closed(int(n), 25*us, think)}}
	})
}

// open is a stream that does not care about answers.
func open() figure {
	service := sim.Jitter(sim.Linear(2*ms, 200*us), 0.02)
	const capacity = 32 / 0.0084
	loads := []float64{5, 10, 20, 30, 40, 50, 60, 70, 80, 85, 90, 95}
	f := figure{
		title:  "Poisson arrivals; a model that takes 2 ms and 0.2 ms a query",
		panels: []panel{{title: "mean latency, ms", y: mean}, {title: "p99 latency, ms", y: p99}},
	}
	return f.draw(loadAxis, loads, rules(10*ms), func(load float64) sim.Scenario {
		return sim.Scenario{Service: service, Loads: []sim.Load{sim.Poisson(load / 100 * capacity)}, Length: 10 * time.Second}
	})
}

// objective is a model whose time is a staircase, under an objective that a
// full batch cannot meet.
func objective() figure {
	service := sim.Jitter(sim.Stepped(8, 2*ms), 0.05)
	const capacity = 32 / 0.008
	loads := []float64{10, 20, 30, 40, 50, 55, 60, 65, 70, 75, 80, 85, 90, 95}
	f := figure{
		title:  "Poisson arrivals; a model that takes 2 ms for every 8 queries begun",
		panels: []panel{{title: "% later than latency_slo: 8ms", y: late}, {title: "p99 latency, ms", y: p99, limit: 40}},
	}
	policies := []func() sim.Policy{sim.WithoutSLO, func() sim.Policy { return sim.AIMD(8 * ms) }, sim.Learned}
	return f.draw(loadAxis, loads, policies, func(load float64) sim.Scenario {
		return sim.Scenario{Service: service, SLO: 8 * ms, Loads: []sim.Load{sim.Poisson(load / 100 * capacity)}, Length: 10 * time.Second}
	})
}

const loadAxis = "load, % of what the model can do"

// rules are the policies to compare where there is no objective; target is that
// of AIMD.
func rules(target time.Duration) []func() sim.Policy {
	return []func() sim.Policy{
		sim.AtOnce, func() sim.Policy { return sim.FixedWait(ms) }, func() sim.Policy { return sim.AIMD(target) }, sim.Crude, sim.Learned,
	}
}

// What the panels show of a result.
func rate(r sim.Result) float64 { return r.Rate }
func mean(r sim.Result) float64 { return r.Mean.Seconds() * 1e3 }
func p99(r sim.Result) float64  { return r.P99.Seconds() * 1e3 }
func late(r sim.Result) float64 { return r.Late * 100 }

// draw adds a line for each policy to each panel: what it makes of the scenario at
// each of the places on the axis x.
func (f figure) draw(x string, at []float64, policies []func() sim.Policy, scenario func(float64) sim.Scenario) figure {
	for i := range f.panels {
		f.panels[i].x, f.panels[i].at = x, at
	}
	for _, p := range policies {
		results := over(at, p, scenario)
		for i := range f.panels {
			f.panels[i].add(p().Name, results)
		}
	}
	return f
}

// over simulates a scenario at each of some places.
func over(at []float64, p func() sim.Policy, scenario func(float64) sim.Scenario) []sim.Result {
	results := make([]sim.Result, len(at))
	var running sync.WaitGroup
	for i, x := range at {
		running.Go(func() {
			s := scenario(x)
			s.Seed = 1
			results[i] = sim.Run(s, p())
		})
	}
	running.Wait()
	return results
}
