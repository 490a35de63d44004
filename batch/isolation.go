package batch

import (
	"math/bits"
	"slices"
)

// isolation is what is left of a batch that failed as a whole. It is computed
// again in parts, one after the other, each by whichever replica is free: so it
// endangers one replica at a time, takes no more than one slot, and what one part
// tells of the next saves calls. The larger parts come first, as they answer most
// queries.
//
// This is group testing by binary splitting (Hwang, A Method for Detecting All
// Defective Members in a Population by Group Testing, 1972): where one half of a
// batch passes, the guilty are in the other, which is split at once. One guilty
// query of n costs at most 2·log2 n calls.
type isolation[In, Out any] struct {
	parts   []*part[In, Out] // that wait, the next first
	running bool             // a part is being computed
	passed  bool             // a part did not fail as a whole
	failed  int              // parts that did before one passed
	alone   int              // those of them that were single queries
	calls   int              // that may still be made
	deaths  int              // replicas that may still end
	ended   int              // replicas that have
}

// part is some queries of a batch that failed, to be computed in a call of
// their own.
type part[In, Out any] struct {
	isolation *isolation[In, Out]
	queries   []*Query[In, Out]
	err       error          // of the batch that they were in
	guilty    bool           // it would fail: the other half of its batch has passed
	other     *part[In, Out] // the half that is guilty if this one passes; may be nil
}

const (
	// probes is how many queries are computed alone when both halves of a batch
	// failed: if these fail too, the model is broken and the others are spared.
	probes = 3
	// fatal is how many replicas may end with a query before it is refused, the
	// last time alone: the first may have been an accident.
	fatal = 2
)

// newIsolation bounds what a batch of n may cost: 8·log2 n calls are enough to
// find four guilty queries wherever they are. One that ends replicas ends 1 + log2 n, so
// two of them may be found, and one replica may end by accident meanwhile; then the search is over.
func newIsolation[In, Out any](n int) *isolation[In, Out] {
	log := bits.Len(uint(n - 1)) // rounded up
	return &isolation[In, Out]{calls: max(1, 8*log), deaths: 2*max(fatal, 1+log) + 1}
}

// add puts queries that failed together at the end, in halves.
func (s *isolation[In, Out]) add(queries []*Query[In, Out], err error) {
	half := len(queries) / 2
	second := s.part(queries[half:], err)
	if half > 0 {
		first := s.part(queries[:half], err)
		first.other = second
		s.parts = append(s.parts, first)
	}
	s.parts = append(s.parts, second)
}

func (s *isolation[In, Out]) part(queries []*Query[In, Out], err error) *part[In, Out] {
	p := &part[In, Out]{isolation: s, queries: slices.Clone(queries), err: err}
	for _, q := range queries {
		q.part = p
	}
	return p
}

// next takes out what is to be computed next; nil if there is nothing. A part
// that would fail, or that the limits would not allow, is split first.
func (s *isolation[In, Out]) next(limits Limits) *part[In, Out] {
	if !s.passed && s.failed >= 2 && s.alone < probes && len(s.parts) > 0 {
		return s.probe(min(s.alone, len(s.parts)-1))
	}
	for len(s.parts) > 0 {
		p := s.parts[0]
		s.parts = slices.Delete(s.parts, 0, 1)
		if len(p.queries) == 1 || !p.guilty && p.fits(limits) {
			return p
		}
		s.add(p.queries, p.err)
	}
	return nil
}

// probe takes a single query out of a part, which then tells nothing of its other
// half any more, nor the other of it.
func (s *isolation[In, Out]) probe(i int) *part[In, Out] {
	from := s.parts[i]
	single := s.part(from.queries[:1], from.err)
	from.other = nil
	if i > 0 && s.parts[i-1].other == from {
		s.parts[i-1].other = nil
	}
	from.take(single.queries[0])
	return single
}

// take takes a query out of a part that waits.
func (p *part[In, Out]) take(q *Query[In, Out]) {
	p.queries = slices.DeleteFunc(p.queries, func(other *Query[In, Out]) bool { return other == q })
	if s := p.isolation; len(p.queries) == 0 {
		s.parts = slices.DeleteFunc(s.parts, func(other *part[In, Out]) bool { return other == p })
	}
}

// fits reports whether the part may be a batch by the limits, which may have
// changed since its queries were in one.
func (p *part[In, Out]) fits(l Limits) bool {
	for _, q := range p.queries {
		if l.IsolateCallers && q.Caller != p.queries[0].Caller {
			return false
		}
	}
	return p.cost() <= l.MaxBatchSize
}

func (p *part[In, Out]) cost() (cost int) {
	for _, q := range p.queries {
		cost += q.cost
	}
	return cost
}

// pass takes note of a part that did not fail as a whole.
func (s *isolation[In, Out]) pass(p *part[In, Out]) {
	s.passed = true
	if p.other != nil {
		p.other.guilty = true
	}
}

// fail takes note of a batch or part of n queries that did.
func (s *isolation[In, Out]) fail(n int, isPart, died bool) {
	if died {
		s.deaths--
		s.ended++
	}
	if !isPart || s.passed {
		return
	}
	s.failed++
	if n == 1 {
		s.alone++
	}
}

// waiting lists the queries that wait.
func (s *isolation[In, Out]) waiting() (all []*Query[In, Out]) {
	for _, p := range s.parts {
		all = append(all, p.queries...)
	}
	return all
}

// hopeless reports that to compute more would help nobody, or cost too much.
func (s *isolation[In, Out]) hopeless() bool {
	if s.calls <= 0 || s.deaths <= 0 {
		return true
	}
	return !s.passed && s.alone >= probes && len(s.waiting()) > probes
}
