package sim

import (
	"math/rand/v2"
	"slices"
	"time"

	"github.com/shoalserve/shoal/batch"
)

// Scenario is what a batcher is put through.
type Scenario struct {
	Name     string
	Seed     uint64
	Service  Service
	Replicas int // default 1
	Slots    int // batches that one replica computes at once; default 1
	MaxBatch int // default 32
	SLO      time.Duration
	Loads    []Load
	// Deadline is how long a query is of use; 0: it always is. ComputeLate is that of
	// [batch.Limits].
	Deadline    time.Duration
	ComputeLate bool
	// WarmUp is left out of the result; Length is what follows. Defaults 1s
	// and 4s.
	WarmUp, Length time.Duration
}

// Result is what the callers saw after the warm-up.
type Result struct {
	Rate           float64 // answers a second
	Good           float64 // of these, those within the deadline
	Mean, P50, P99 time.Duration
	Refused        int
	Unanswered     int     // neither answered nor refused at the end: they wait or are being computed
	Late           float64 // the share of answers later than the objective
	MeanBatch      float64
	Reasons        map[string]uint64 // batches by why they left, warm-up included
	// LongestHold is the longest time for which a replica was free while queries
	// waited, and LongestBatch the longest that a batch took, warm-up included.
	LongestHold, LongestBatch time.Duration
}

type (
	query   = batch.Query[struct{}, struct{}]
	batcher = batch.Batcher[struct{}, struct{}]
)

// World is a simulation that runs: loads put queries into it.
type World struct {
	Clock   *Clock
	Rand    *rand.Rand
	batcher *batcher
	warm    time.Time

	waiting, free int
	holdSince     time.Time // when a replica got free, or a query came, that had to wait; zero for none
	longestHold   time.Duration
	longestBatch  time.Duration

	deadline  time.Duration
	latencies []time.Duration
	good      int
	refused   int
	asked     int
	answered  int
	queries   int
	batches   int
}

// Run simulates a scenario under a policy. Equal arguments give equal results.
func Run(s Scenario, p Policy) Result {
	if s.WarmUp == 0 {
		s.WarmUp = time.Second
	}
	if s.Length == 0 {
		s.Length = 4 * time.Second
	}
	clock := NewClock()
	w := &World{Clock: clock, deadline: s.Deadline, Rand: rand.New(rand.NewPCG(s.Seed, 1)), warm: epoch.Add(s.WarmUp)}
	opts := batch.Options[struct{}, struct{}]{Clock: clock}
	opts.MaxBatchSize, opts.MaxQueued, opts.LatencySLO, opts.ComputeLate = s.MaxBatch, 2048, s.SLO, s.ComputeLate
	after := p.apply(&opts)
	opts.OnBatch = func(b *batch.Batch[struct{}, struct{}]) {
		if clock.now.After(w.warm) {
			w.batches++
			w.queries += len(b.Queries)
		}
		if after != nil {
			after(w, b)
		}
	}
	w.batcher = batch.New(opts)
	w.free = max(1, s.Replicas) * max(1, s.Slots)
	for i := range max(1, s.Replicas) {
		service := rand.New(rand.NewPCG(s.Seed, uint64(100+i)))
		w.batcher.Attach(s.Slots, func(b *batch.Batch[struct{}, struct{}]) {
			w.moved(-len(b.Queries), -1)
			took := s.Service(len(b.Queries), service)
			w.longestBatch = max(w.longestBatch, took)
			clock.AfterFunc(took, func() {
				w.moved(0, 1)
				b.Complete()
			})
		})
	}
	for i, l := range s.Loads {
		l(&Source{World: w, Rand: rand.New(rand.NewPCG(s.Seed, uint64(1000+i)))})
	}
	clock.Run(s.WarmUp + s.Length)
	return w.result(s)
}

// Source is one load's access to the world, with random numbers of its own, so
// that policies are compared on the same arrivals.
type Source struct {
	*World
	Rand *rand.Rand
	over bool // no more of its queries come
}

// Ask is [World.Ask] until the load is over.
func (s *Source) Ask(done func()) {
	if !s.over {
		s.World.Ask(done)
	}
}

// Ask submits a query; done, if any, is called when it was answered or refused.
func (w *World) Ask(done func()) {
	arrived := w.Clock.Now()
	q := &query{Origin: batch.Web}
	if w.deadline > 0 {
		q.Deadline = arrived.Add(w.deadline)
	}
	w.asked++
	q.Done = func(q *query) {
		w.answered++
		if q.Trip.BatchID == 0 { // it was dropped
			w.moved(-1, 0)
		} else if now := w.Clock.Now(); now.After(w.warm) {
			w.latencies = append(w.latencies, now.Sub(arrived))
			if w.deadline <= 0 || !now.After(q.Deadline) {
				w.good++
			}
		}
		if done != nil {
			done()
		}
	}
	w.moved(1, 0)
	if w.batcher.Submit(q) != nil {
		w.moved(-1, 0)
		w.refused++
		if done != nil {
			w.Clock.AfterFunc(time.Millisecond, done)
		}
	}
}

// moved books that queries came or left and that slots got free or busy.
func (w *World) moved(queries, slots int) {
	w.waiting += queries
	w.free += slots
	now := w.Clock.now
	if w.waiting == 0 || w.free == 0 {
		if !w.holdSince.IsZero() {
			w.longestHold = max(w.longestHold, now.Sub(w.holdSince))
		}
		w.holdSince = time.Time{}
	} else if w.holdSince.IsZero() {
		w.holdSince = now
	}
}

func (w *World) result(s Scenario) Result {
	r := Result{Refused: w.refused, Unanswered: w.asked - w.answered - w.refused, Reasons: map[string]uint64{}, LongestHold: w.longestHold, LongestBatch: w.longestBatch}
	stats := w.batcher.Stats()
	for _, reason := range batch.Reasons() {
		if n := stats.Reasons[reason]; n > 0 {
			r.Reasons[reason.String()] = n
		}
	}
	n := len(w.latencies)
	if n == 0 {
		return r
	}
	slices.Sort(w.latencies)
	var sum time.Duration
	late := 0
	for _, l := range w.latencies {
		sum += l
		if s.SLO > 0 && l > s.SLO {
			late++
		}
	}
	r.Rate, r.Good = float64(n)/s.Length.Seconds(), float64(w.good)/s.Length.Seconds()
	r.Mean, r.P50, r.P99 = sum/time.Duration(n), w.latencies[n/2], w.latencies[n*99/100]
	r.Late = float64(late) / float64(n)
	r.MeanBatch = float64(w.queries) / float64(max(1, w.batches))
	return r
}
