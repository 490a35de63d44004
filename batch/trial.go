package batch

import "math"

// trial makes sure that holding does good. What a hold saves is reckoned from
// a model of arrivals and service times, and models err; so epochs of some batches that may
// be held are compared with epochs that may not, by what callers feel: the mean
// time from arrival to answer and its root mean square, to which the slow
// ones count for more. Holds are in force only where both are better, the comparison is
// made again from time to time, and ever less often as long as its outcome stays the
// same.
type trial struct {
	state   trialState
	holding bool // in this epoch
	batches int  // of this epoch
	wanted  int  // how many of them would have been held
	left    int  // batches until this state ends; when watching, until a trial may begin
	now     felt // in this epoch
	at      felt // in the latest epoch that left at once
	odd     int  // batches that still do not count, after a pause of the machine
	pairs   float64
	sum     float64 // of what epochs that held were better, less than 0, or worse, relatively
	squares float64
	last    float64 // the mean with which holds were last found good; 0 if they were not
	spell   int     // batches for which holds were in force last time
	pause   int     // batches for which they were not
}

// trialState moves from watching to trying when holds are wanted, from there
// to holding if they do good or back to watching, and from holding to trying
// when they are to be compared again.
type trialState uint8

const (
	watching trialState = iota
	trying
	holding
)

// felt sums up the times from arrival to answer.
type felt struct{ queries, sum, squares float64 }

func (f felt) mean() float64 { return f.sum / f.queries }
func (f felt) rms() float64  { return math.Sqrt(f.squares / f.queries) }

const (
	firstSpell, longestSpell = 512, 1 << 15
	firstPause, longestPause = 256, 1 << 14
	mostPairs                = 5.0
	worthwhile               = -0.05 // holds that gain less are not worth their slow ones
	// Each comparison costs the gain of some batches, so that what gained much is not
	// put to the test again soon.
	obvious, obviousSpell = -0.2, 4 * firstSpell
)

// answered books a batch and moves on at the end of an epoch. The time expected of
// the batch tells a pause of the machine, which says nothing about holds: such a
// batch does not count, nor do those whose queries waited for it.
func (t *trial) answered(a Answered, expected float64) {
	t.batches++
	t.left--
	if t.odd--; float64(a.Took) > 2*expected {
		t.odd = a.Slots + 1
	}
	if t.batches > 1+a.Slots && t.odd <= 0 {
		n := float64(a.Queries)
		took := float64(a.Took)
		t.now.queries += n
		t.now.sum += float64(a.Waited) + n*took
		t.now.squares += a.Squares
	}
	if t.state == holding {
		if t.left <= 0 {
			t.compare()
			t.epoch(false)
		}
		return
	}
	if t.batches < 8+4*a.Slots || t.now.queries == 0 {
		return
	}
	if t.state == watching {
		t.at = t.now
		hold := t.left <= 0 && 4*t.wanted >= t.batches
		if hold {
			t.compare()
		}
		t.epoch(hold)
		return
	}
	if !t.holding {
		t.at = t.now
		t.epoch(true)
		return
	}
	t.judge()
}

// compare begins a trial. Where holds were good before, that counts as much as
// two pairs.
func (t *trial) compare() {
	t.state, t.pairs, t.sum, t.squares = trying, 0, 0, 0
	if t.last < 0 {
		t.pairs, t.sum, t.squares = 2, 2*t.last, 2*t.last*t.last
	}
}

func (t *trial) epoch(hold bool) {
	t.holding, t.batches, t.wanted, t.now = hold, 0, 0, felt{}
}

// judge compares an epoch that held with the one before.
func (t *trial) judge() {
	d := max(t.now.mean()/t.at.mean(), t.now.rms()/t.at.rms()) - 1
	t.pairs++
	t.sum += d
	t.squares += d * d
	mean := t.sum / t.pairs
	most := mostPairs
	if t.last < 0 {
		most += 2
	}
	off := 0.25 // how far the mean of one pair can be off; of more, twice its standard error
	if t.pairs > 1 {
		off = 2 * math.Sqrt(max(0.0001, t.squares/t.pairs-mean*mean)/(t.pairs-1))
	}
	switch {
	case mean < worthwhile && mean+off < 0:
		t.last = mean
		t.spell = min(max(firstSpell, 2*t.spell), longestSpell)
		if mean+off < obvious {
			t.spell = max(t.spell, obviousSpell)
		}
		t.state, t.left, t.pause = holding, t.spell, 0
		t.epoch(true)
	case mean-off > worthwhile || t.pairs >= most:
		t.stop()
	default:
		t.epoch(false)
	}
}

// stop ends holds for a while.
func (t *trial) stop() {
	t.pause = min(max(firstPause, 2*t.pause), longestPause)
	if t.last < 0 {
		t.pause = firstPause / 4
	}
	t.last = 0
	t.state, t.left, t.spell = watching, t.pause, 0
	t.epoch(false)
}
