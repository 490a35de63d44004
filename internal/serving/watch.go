package serving

import (
	"math"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/shoalserve/shoal/batch"
)

// watch counts what comes of an endpoint's queries while a canary runs: of those
// that the canary got, and of the others.
type watch struct {
	canary string
	arms   [2]*arm            // of the others, and of the canary
	before map[string]float64 // the traffic before the canary
}

// arm is one side of the trial. Its counts are read while queries run.
type arm struct {
	queries, errors atomic.Uint64
	timed, sum      atomic.Uint64 // answers, and the nanoseconds that they took
	times           [timeBuckets]atomic.Uint64
}

// Times are counted in buckets that grow by a fifth: fine enough for a ratio.
const (
	timeBuckets = 128
	timeGrowth  = 1.2
)

func bucket(d time.Duration) int {
	micros := max(1, float64(d)/float64(time.Microsecond))
	return min(timeBuckets-1, int(math.Log(micros)/math.Log(timeGrowth)))
}

// tally is what an arm counted, at one moment.
type tally struct {
	queries, errors, timed uint64
	mean, p99              time.Duration
}

func (a *arm) tally() tally {
	t := tally{queries: a.queries.Load(), errors: a.errors.Load(), timed: a.timed.Load()}
	if t.timed == 0 {
		return t
	}
	t.mean = time.Duration(a.sum.Load() / t.timed)
	seen := uint64(0)
	for i := range a.times {
		if seen += a.times[i].Load(); seen*100 >= t.timed*99 {
			t.p99 = time.Duration(math.Pow(timeGrowth, float64(i+1)) * float64(time.Microsecond))
			break
		}
	}
	return t
}

// count notes what came of a query.
func (w *watch) count(backend string, failed bool, trip batch.Trip) {
	a := w.arms[0]
	if backend == w.canary {
		a = w.arms[1]
	}
	a.queries.Add(1)
	if failed {
		a.errors.Add(1)
		return
	}
	if took := trip.Queued + trip.Computed; trip.BatchID != 0 {
		a.timed.Add(1)
		a.sum.Add(uint64(took))
		a.times[bucket(took)].Add(1)
	}
}

// watched is what a call carries on an endpoint that is watched, or whose answer
// is compared.
type watched struct {
	watch   *watch // nil: only compared
	backend string
	pairs   []*pair
}

// answered is told of the call's end.
func (w *watched) answered(c *Call) {
	if w.watch != nil {
		w.watch.count(w.backend, blamed(c.Err, c.Response.Status), c.Trip)
	}
	for _, p := range w.pairs {
		p.set(0, c)
	}
}

// ended is told that the call has no answer: it was refused, or withdrawn.
func (w *watched) ended(failed bool) {
	if w.watch != nil && failed {
		w.watch.count(w.backend, true, batch.Trip{})
	}
	for _, p := range w.pairs {
		p.abandon()
	}
}

// left is told that a call was withdrawn: by its caller, who had enough, or by
// its front, because its time was over.
func (c *Call) left(timeout time.Duration) {
	if c.watched == nil {
		return
	}
	deadline := c.deadline(timeout)
	c.watched.ended(!deadline.IsZero() && !time.Now().Before(deadline))
}

// finish tells the call's caller that it is done.
func (c *Call) finish() {
	if c.watched != nil {
		c.watched.answered(c)
	}
	c.Done(c)
}

// blamed reports whether a failure is the model's or its server's, and not the
// caller's.
func blamed(err error, status int) bool {
	if err != nil {
		status = Describe(err).Status
	}
	return status >= http.StatusInternalServerError
}
