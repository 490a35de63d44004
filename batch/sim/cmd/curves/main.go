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
	rate := panel{title: "answers a second", x: "clients", at: clients}
	mean := panel{title: "mean latency, ms", x: "clients", at: clients}
	policies := []func() sim.Policy{
		sim.AtOnce, func() sim.Policy { return sim.FixedWait(ms) }, func() sim.Policy { return sim.AIMD(20 * ms) }, sim.Crude, sim.Learned,
	}
	for _, p := range policies {
		results := over(clients, p, func(n float64) sim.Scenario {
			think := sim.Sum(sim.Exactly(50*us), sim.Exponential(60*us))
			return sim.Scenario{Service: service, Loads: []sim.Load{sim.Closed(int(n), 25*us, think)}}
		})
		rate.add(p().Name, results, func(r sim.Result) float64 { return r.Rate })
		mean.add(p().Name, results, func(r sim.Result) float64 { return r.Mean.Seconds() * 1e3 })
	}
	return figure{"Clients that ask again when they are answered; a model that takes 5 ms a batch, at most 32", []panel{rate, mean}}
}

// open is a stream that does not care about answers.
func open() figure {
	service := sim.Jitter(sim.Linear(2*ms, 200*us), 0.02)
	const capacity = 32 / 0.0084
	loads := []float64{5, 10, 20, 30, 40, 50, 60, 70, 80, 85, 90, 95}
	mean := panel{title: "mean latency, ms", x: "load, % of what the model can do", at: loads}
	p99 := panel{title: "p99 latency, ms", x: "load, % of what the model can do", at: loads}
	policies := []func() sim.Policy{
		sim.AtOnce, func() sim.Policy { return sim.FixedWait(ms) }, func() sim.Policy { return sim.AIMD(10 * ms) }, sim.Crude, sim.Learned,
	}
	for _, p := range policies {
		results := over(loads, p, func(load float64) sim.Scenario {
			return sim.Scenario{Service: service, Loads: []sim.Load{sim.Poisson(load / 100 * capacity)}, Length: 10 * time.Second}
		})
		mean.add(p().Name, results, func(r sim.Result) float64 { return r.Mean.Seconds() * 1e3 })
		p99.add(p().Name, results, func(r sim.Result) float64 { return r.P99.Seconds() * 1e3 })
	}
	return figure{"Poisson arrivals; a model that takes 2 ms and 0.2 ms a query", []panel{mean, p99}}
}

// objective is a model whose time is a staircase, under an objective that a
// full batch cannot meet.
func objective() figure {
	service := sim.Jitter(sim.Stepped(8, 2*ms), 0.05)
	const capacity = 32 / 0.008
	loads := []float64{10, 20, 30, 40, 50, 55, 60, 65, 70, 75, 80, 85, 90, 95}
	late := panel{title: "% later than latency_slo: 8ms", x: "load, % of what the model can do", at: loads}
	p99 := panel{title: "p99 latency, ms", x: "load, % of what the model can do", at: loads, limit: 40}
	policies := []func() sim.Policy{sim.WithoutSLO, func() sim.Policy { return sim.AIMD(8 * ms) }, sim.Learned}
	for _, p := range policies {
		results := over(loads, p, func(load float64) sim.Scenario {
			return sim.Scenario{Service: service, SLO: 8 * ms, Loads: []sim.Load{sim.Poisson(load / 100 * capacity)}, Length: 10 * time.Second}
		})
		late.add(p().Name, results, func(r sim.Result) float64 { return r.Late * 100 })
		p99.add(p().Name, results, func(r sim.Result) float64 { return r.P99.Seconds() * 1e3 })
	}
	return figure{"Poisson arrivals; a model that takes 2 ms for every 8 queries begun", []panel{late, p99}}
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
