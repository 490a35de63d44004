package batch

import (
	"math"
	"math/bits"
	"time"
)

// serviceTimes is what a batcher learned about the time that a replica takes
// for a batch, as a function of the batch's cost. Times are nanoseconds.
//
// Each size has a mean that forgets; sizes above 16 share one of eight buckets an
// octave. Since a larger batch does not take less time, means that say otherwise
// are noise and are pooled with their neighbours (isotonic regression by pooling
// adjacent violators: Ayer et al., An Empirical Distribution Function for
// Sampling with Incomplete Information, 1955).
type serviceTimes struct {
	mean          float64 // over all sizes
	spread        float64 // how far a batch lies off the mean of its size, as a fraction of it
	batches       uint64
	sizes         []serviceTime // by bucket
	curve         []float64     // by bucket, monotone and without holes
	stale         bool          // the curve is older than sizes
	known, pooled []knownTime   // scratch space of fit
}

// serviceTime is the mean over one bucket.
type serviceTime struct {
	mean   float64
	weight float64 // of the mean, in batches; at most 1/serviceGain
	seen   uint64  // the number of batches when the weight was right
}

type knownTime struct {
	mean, weight float64
	first, last  int // buckets
}

const (
	serviceGain   = 1. / 8 // the weight of a new batch in the mean of its size
	serviceMemory = 64     // batches after which the mean of a size that did not occur has half the weight
	neighbours    = 2.     // the weight, in batches, of the next sizes in the estimate for a size
)

func bucket(n int) int {
	if n <= 16 {
		return n
	}
	octave := bits.Len(uint(n)) - 1
	return 17 + (octave-4)*8 + (n>>(octave-3))&7
}

// learn takes note of a batch of cost n that took d.
func (s *serviceTimes) learn(n int, d time.Duration) {
	x := max(1, float64(d))
	s.batches++
	i := bucket(n)
	for len(s.sizes) <= i {
		s.sizes = append(s.sizes, serviceTime{})
	}
	e := &s.sizes[i]
	e.forget(s.batches)
	if e.weight >= 1 {
		// A pause of the machine must not pass for a slow model: what lies
		// outside the usual spread counts only as far as that (Huber, Robust
		// Estimation of a Location Parameter, 1964). A spread that grows lets a
		// change through.
		off := max(-3*s.spread, min(3*s.spread, x/e.mean-1))
		x = e.mean * (1 + off)
		s.spread += serviceGain * (max(0.02, math.Abs(off)) - s.spread)
	}
	e.weight += 1
	if e.weight > 1/serviceGain {
		e.weight = 1 / serviceGain
	}
	e.mean += (x - e.mean) / e.weight
	if s.batches == 1 {
		s.mean, s.spread = x, 0.1
	}
	s.mean += serviceGain * (x - s.mean)
	s.stale = true
}

// forget lets the mean of a size that did not occur for long count for less.
func (e *serviceTime) forget(batches uint64) {
	for ; e.weight > 0.01 && batches-e.seen > serviceMemory; e.seen += serviceMemory {
		e.weight /= 2
	}
	e.seen = batches
}

// at is the expected time of a batch of cost n. Something must have been learned.
func (s *serviceTimes) at(n int) float64 {
	if s.stale {
		s.fit()
	}
	i := bucket(n)
	if last := len(s.curve) - 1; i > last {
		// Of larger batches than any so far the best is assumed; one such batch
		// tells more.
		i = last
	}
	return s.curve[i]
}

// expect is at for those who reckon in durations; 0 as long as nothing was
// learned.
func (s *serviceTimes) expect(n int) time.Duration {
	if s.batches == 0 {
		return 0
	}
	return time.Duration(s.at(n))
}

// fit makes the curve from the sizes.
func (s *serviceTimes) fit() {
	s.stale = false
	known := s.known[:0]
	for i := range s.sizes {
		e := s.sizes[i]
		if e.weight == 0 {
			continue
		}
		for seen := e.seen; e.weight > 0.01 && s.batches-seen > serviceMemory; seen += serviceMemory {
			e.weight /= 2
		}
		known = append(known, knownTime{e.mean, e.weight, i, i})
	}
	s.known = known
	pooled := s.pooled[:0]
	for j, p := range known {
		p.mean = (p.mean*p.weight + between(known, j)*neighbours) / (p.weight + neighbours)
		pooled = append(pooled, p)
		for n := len(pooled); n > 1 && pooled[n-2].mean >= pooled[n-1].mean; n-- {
			a, b := &pooled[n-2], pooled[n-1]
			a.mean = (a.mean*a.weight + b.mean*b.weight) / (a.weight + b.weight)
			a.weight += b.weight
			a.last = b.last
			pooled = pooled[:n-1]
		}
	}
	s.pooled = pooled
	s.draw(pooled)
}

// between is what the neighbours of a size say of it.
func between(known []knownTime, j int) float64 {
	switch {
	case len(known) == 1:
		return known[0].mean
	case j == 0:
		return known[1].mean
	case j == len(known)-1:
		return known[j-1].mean
	}
	a, b := known[j-1], known[j+1]
	return a.mean + (b.mean-a.mean)*float64(known[j].first-a.first)/float64(b.first-a.first)
}

// draw fills the curve: between known sizes it is straight, beyond them flat.
func (s *serviceTimes) draw(known []knownTime) {
	s.curve = s.curve[:0]
	for j, p := range known {
		for at := len(s.curve); at < p.first; at++ {
			if j == 0 {
				s.curve = append(s.curve, p.mean)
				continue
			}
			a := known[j-1]
			s.curve = append(s.curve, a.mean+(p.mean-a.mean)*float64(at-a.last)/float64(p.first-a.last))
		}
		for len(s.curve) <= p.last {
			s.curve = append(s.curve, p.mean)
		}
	}
}
