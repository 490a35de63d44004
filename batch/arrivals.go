package batch

import (
	"math"
	"math/bits"
)

// arrivals learns when queries come. Their rate is the sum of two: a background
// that does not depend on what the batcher does, and returns: a caller that was
// answered comes back with its next query, some time after. Of each batch that was
// answered it is kept how many of its callers are still to return; the rate
// at which one of them does, as a function of the time since the answer (the
// hazard), is learned over all batches.
//
// Which of the two an arrival was is not known; it counts for both in
// proportion to their rates (expectation maximisation as for Hawkes processes:
// Lewis and Mohler, A Nonparametric EM Algorithm for Multiscale Hawkes Processes,
// 2011). Times are nanoseconds since the batcher's first query.
type arrivals struct {
	now    int64
	weight float64 // of a new observation; it grows, so that old ones count for less

	batches []answeredBatch // at most maxAnswered, the oldest first

	back            [ages]float64 // weighted returns, by the time since the answer
	waited          [ages]float64 // weighted time for which one who is to return did not
	hazard          [ages]float64 // returns a nanosecond, as of the last fit
	total           [ages + 1]float64
	stale           bool
	strangers, time float64 // the background: weighted arrivals, and time
}

// answeredBatch is a batch whose callers may return.
type answeredBatch struct {
	at      int64
	missing float64 // callers that did not return yet, as far as one can know
	group   Group
}

const (
	maxAnswered = 4
	ages        = 84      // four an octave, from 8 µs to 16 s
	memory      = 1. / 64 // the weight of one batch's returns against those of all before
	priorReturn = 0.1
)

// age gives the bucket of a time since an answer.
func age(d int64) int {
	if d < 8<<10 {
		return 0
	}
	octave := bits.Len64(uint64(d)) - 1
	return min(ages-1, 1+(octave-13)*4+int(d>>(octave-2))&3)
}

// ageStart is the least time in a bucket.
func ageStart(i int) int64 {
	if i == 0 {
		return 0
	}
	octave := 13 + (i-1)/4
	return int64(4+(i-1)%4) << (octave - 2)
}

// advance books the time until t, in which nobody arrived.
func (a *arrivals) advance(t int64) {
	if a.weight == 0 {
		a.weight = 1
	}
	if t <= a.now {
		return
	}
	a.time += a.weight * float64(t-a.now)
	kept := a.batches[:0]
	for i := range a.batches {
		b := &a.batches[i]
		from, to := a.now-b.at, t-b.at
		w := a.weight * b.missing
		for j := age(from); ; j++ {
			end := ageStart(j + 1)
			if j == ages-1 || to <= end {
				a.waited[j] += w * float64(to-from)
				break
			}
			a.waited[j] += w * float64(end-from)
			from = end
		}
		if b.missing > 0.02 {
			kept = append(kept, *b)
		}
	}
	a.batches = kept
	a.now = t
}

// arrived takes note of an arrival now.
func (a *arrivals) arrived(t int64, g Group) {
	a.advance(t)
	background := a.background()
	rate := background
	for i := range a.batches {
		if b := &a.batches[i]; b.group == g {
			rate += b.missing * a.hazardAt(age(t-b.at))
		}
	}
	if rate <= 0 {
		a.strangers += a.weight
		return
	}
	for i := range a.batches {
		b := &a.batches[i]
		if b.group != g {
			continue
		}
		j := age(t - b.at)
		share := b.missing * a.hazardAt(j) / rate
		a.back[j] += a.weight * share
		b.missing = max(0, b.missing-share)
	}
	a.strangers += a.weight * background / rate
}

// answered takes note that n callers were answered now.
func (a *arrivals) answered(t int64, g Group, n int, horizon int64) {
	a.advance(t)
	a.weight *= 1 + memory
	if a.weight > 1e9 {
		a.rescale()
	}
	a.stale = true
	keep := a.batches[:0]
	for _, b := range a.batches {
		if t-b.at < horizon {
			keep = append(keep, b)
		}
	}
	a.batches = keep
	if len(a.batches) == maxAnswered {
		copy(a.batches, a.batches[1:])
		a.batches = a.batches[:maxAnswered-1]
	}
	a.batches = append(a.batches, answeredBatch{t, float64(n), g})
}

func (a *arrivals) rescale() {
	for i := range ages {
		a.back[i] /= a.weight
		a.waited[i] /= a.weight
	}
	a.strangers /= a.weight
	a.time /= a.weight
	a.weight = 1
}

// background is the rate of the arrivals that are no returns.
func (a *arrivals) background() float64 {
	if a.time == 0 {
		return 0
	}
	return a.strangers / a.time
}

func (a *arrivals) hazardAt(j int) float64 {
	prior := priorReturn * a.weight
	return (a.back[j] + prior) / (a.waited[j] + prior*8*float64(ageStart(j+1)))
}

// fit sums up the hazards.
func (a *arrivals) fit() {
	a.stale = false
	for j := range ages {
		a.hazard[j] = a.hazardAt(j)
		a.total[j+1] = a.total[j] + a.hazard[j]*float64(ageStart(j+1)-ageStart(j))
	}
}

// hazards is the sum of the hazards up to an age.
func (a *arrivals) hazards(d int64) float64 {
	j := age(d)
	return a.total[j] + a.hazard[j]*float64(d-ageStart(j))
}

// missing is the number of callers of group g that were answered and are not back.
func (a *arrivals) missing(g Group) (n float64) {
	for i := range a.batches {
		if a.batches[i].group == g {
			n += a.batches[i].missing
		}
	}
	return n
}

// expected is the outlook on the returns of a group from now on.
type expected struct {
	arrivals *arrivals
	batches  [maxAnswered]expectedBatch
	n        int
	all      float64 // who will be back within the horizon
}

type expectedBatch struct {
	missing float64
	age     int64   // since it was answered
	have    float64 // hazards up to that age
}

// expect returns the outlook for callers of group g, up to a horizon from now.
func (a *arrivals) expect(g Group, horizon int64) (e expected) {
	if a.stale {
		a.fit()
	}
	e.arrivals = a
	for i := range a.batches {
		if b := &a.batches[i]; b.group == g {
			e.batches[e.n] = expectedBatch{b.missing, a.now - b.at, a.hazards(a.now - b.at)}
			e.n++
		}
	}
	e.all = e.within(horizon)
	return e
}

// within is the number of callers expected back within d.
func (e *expected) within(d int64) (back float64) {
	for i := range e.n {
		b := &e.batches[i]
		back += b.missing * (1 - math.Exp(b.have-e.arrivals.hazards(b.age+d)))
	}
	return back
}
