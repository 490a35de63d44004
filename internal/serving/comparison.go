package serving

import (
	"bytes"
	"math"
	"slices"
	"sync"
	"sync/atomic"
)

// The most that is kept of answers which wait for their other half, and of
// differences.
const (
	maxPairs   = 256
	maxPaired  = 1 << 20 // bytes of an answer; larger ones are not compared
	maxSamples = 8
)

// comparison compares the answers of an endpoint with those of one of its
// shadows, off the way of the queries.
type comparison struct {
	spec    Compare
	wait    *sync.WaitGroup // of the registry: comparisons under way
	pending atomic.Int64
	dropped atomic.Uint64
	turn    sync.Mutex // of the one that compares
	findings
}

// findings are what comparisons of answers found.
type findings struct {
	mu              sync.Mutex
	same, different uint64
	largest         float64
	samples         []string
}

// note adds what one comparison found. It returns how many answers were different so far.
func (f *findings) note(d Difference) uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !math.IsNaN(d.Largest) {
		f.largest = max(f.largest, d.Largest)
	}
	if d.What == "" {
		f.same++
		return f.different
	}
	f.different++
	if len(f.samples) == maxSamples {
		f.samples = slices.Delete(f.samples, 0, 1)
	}
	f.samples = append(f.samples, d.What)
	return f.different
}

// ComparisonStatus tells how the answers of a shadow compare.
type ComparisonStatus struct {
	Compared  uint64 `json:"compared"`
	Same      uint64 `json:"same"`
	Different uint64 `json:"different"`
	// Dropped are not compared: the query had no answer, an answer was too
	// large, or too many waited.
	Dropped uint64 `json:"dropped"`
	// LargestDifference is that of two numbers.
	LargestDifference float64 `json:"largest_difference"`
	// Samples are the last few differences, in words.
	Samples []string `json:"samples,omitempty"`
}

func (c *comparison) status() ComparisonStatus {
	c.mu.Lock()
	defer c.mu.Unlock()
	return ComparisonStatus{
		Compared: c.same + c.different, Same: c.same, Different: c.different, Dropped: c.dropped.Load(),
		LargestDifference: c.largest, Samples: slices.Clone(c.samples),
	}
}

// pair is a query's two answers, until both are there.
type pair struct {
	of *comparison

	mu      sync.Mutex
	answers [2]*Answer // the endpoint's and the shadow's
	over    bool
}

// begin returns a new pair; nil if too many wait.
func (c *comparison) begin() *pair {
	if c.pending.Add(1) > maxPairs {
		c.pending.Add(-1)
		c.dropped.Add(1)
		return nil
	}
	return &pair{of: c}
}

// abandon ends a pair one of whose answers will not come.
func (p *pair) abandon() {
	p.mu.Lock()
	over := p.over
	p.over = true
	p.mu.Unlock()
	if !over {
		p.of.pending.Add(-1)
		p.of.dropped.Add(1)
	}
}

// set is told an answer, the endpoint's (0) or the shadow's (1).
func (p *pair) set(which int, c *Call) {
	if len(c.Response.Body) > maxPaired {
		p.abandon()
		return
	}
	answer := &Answer{Err: c.Err, Response: c.Response}
	answer.Response.Body = bytes.Clone(answer.Response.Body) // its owner may use it again
	p.mu.Lock()
	p.answers[which] = answer
	both := !p.over && p.answers[0] != nil && p.answers[1] != nil
	p.over = p.over || both
	p.mu.Unlock()
	if both {
		p.of.wait.Go(func() { p.of.compare(*p.answers[0], *p.answers[1]) })
	}
}

// compare compares two answers, one pair at a time.
func (c *comparison) compare(a, b Answer) {
	defer c.pending.Add(-1)
	c.turn.Lock()
	defer c.turn.Unlock()
	c.note(c.spec.Answers(a, b))
}
