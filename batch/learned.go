package batch

import (
	"math"
	"time"
)

// learned is the departure policy that learns, the default.
//
// A batch that leaves now makes those wait who come next, until a slot is free
// again; a batch that is held makes those wait who are there. It is held for the
// time τ that is expected to save most:
//
//	A·(W + S(A) − S(k+A)) − k·(S(k+A) − S(k)) − (k+L)·τ − (what those who come wait themselves)
//
// where k queries wait, A come within τ, L come after it but would have to wait for the
// batch too, S is the time that a batch takes and W the time until a slot is free
// if the batch leaves now. The first term is what company gains by not being a
// batch of its own, the second what it costs those who wait. This is the comparison
// behind the thresholds of Deb and Serfozo (Optimal Control of Batch Service
// Queues, 1973), made with what is known about the next arrivals: in a closed loop
// those who were just answered are about to come back. Clipper (NSDI 2017), Nexus
// (SOSP 2019) and Clockwork (OSDI 2020) learn or profile S as well, to size
// batches; none asks who is about to come.
//
// Times are nanoseconds since the first query.
type learned struct {
	service *serviceTimes
	coming  arrivals
	begin   time.Time
	hold    hold
	trial   trial
}

// hold is the hold that is on, and a record of those before.
type hold struct {
	on         bool
	since      int64
	until      int64   // when it is to end
	latest     int64   // when it must
	seen       int64   // when it was last looked at
	missing    float64 // callers to come when the plan was made
	first, now int     // queries that waited at its beginning, and at the last look
	waited     float64
	saves      float64 // W at its beginning

	score float64 // of the latest holds: 1 if all was gained, -1 if all was lost
}

const (
	// minService is the shortest mean service time for which a hold is considered:
	// below, what it could gain is of the size of a wake-up.
	minService = 100e3
	// minBatches is how many batches are watched before the first hold.
	minBatches = 4
	// maxHold bounds a hold, in service times of what waits.
	maxHold = 1.0
	// margin is how many times its cost a hold must be expected to gain.
	margin = 1.25
	slack  = 0.1
	// promising is what a hold must be expected to save to be worth a trial, as a
	// fraction of the service time of those who wait.
	promising = 0.1
	// lookahead is the number of durations tried for a hold, each longer than the
	// one before by the factor longer, from a 64th of what is allowed.
	lookahead = 9
	longer    = 1.68
)

func (l *learned) at(now time.Time) int64 {
	if l.begin.IsZero() {
		l.begin = now
	}
	return int64(now.Sub(l.begin))
}

// Arrived implements [Departure].
func (l *learned) Arrived(now time.Time, g Group) {
	if l.service.batches == 0 || l.service.mean >= minService {
		l.coming.arrived(l.at(now), g)
	}
}

// Answered implements [Departure].
func (l *learned) Answered(now time.Time, a Answered) {
	if l.service.mean >= minService {
		l.coming.answered(l.at(now), a.Group, a.Queries, int64(4*l.service.mean))
		l.trial.answered(a, l.service.at(a.Cost))
	}
}

// Hold implements [Departure].
func (l *learned) Hold(now time.Time, w Waiting) time.Time {
	if l.service.mean < minService || l.service.batches < minBatches || l.trial.state == watching && l.trial.left > 0 {
		return now
	}
	t := l.at(now)
	h := &l.hold
	if h.on && w.Oldest.After(l.begin.Add(time.Duration(h.since))) {
		h.on = false // those it was begun for have left their queue
	}
	latest := t + int64(maxHold*l.service.at(w.Cost))
	switch {
	case !w.By.IsZero():
		latest = l.at(w.By)
	case h.on:
		latest = h.latest
	}
	if h.on && t < h.until && h.until <= latest {
		// As long as more than half of those whom the plan was made for are
		// missing, an arrival changes little.
		l.coming.advance(t)
		if missing := l.coming.missing(w.Group); missing > 2 && missing > h.missing/2 {
			h.look(t, w.Queries)
			return l.begin.Add(time.Duration(h.until))
		}
	}
	until, saves := l.plan(t, latest, w)
	if until = min(until, latest); until <= t {
		return now
	}
	if !l.trial.holding {
		if saves > promising*float64(w.Queries)*l.service.at(w.Cost) {
			l.trial.wanted++
		}
		return now
	}
	if !h.on {
		h.begin(t, latest, w.Queries, l.turn(t, w))
	}
	h.look(t, w.Queries)
	// A hold mostly ends by an arrival, and each corrects its end: unless it is
	// much earlier it is left where it is, which spares the timer.
	if h.until < until || h.until-until > (until-t)/2 {
		h.until = until
	}
	h.missing = l.coming.missing(w.Group)
	return l.begin.Add(time.Duration(h.until))
}

// Left implements [Departure].
func (l *learned) Left(now time.Time, w Waiting) {
	if l.hold.on && !l.hold.end(l.at(now), w.Queries) {
		l.trial.stop()
	}
}

// turn is the time until a slot is free for those who come, if w leaves now.
func (l *learned) turn(t int64, w Waiting) float64 {
	s := l.service.at(w.Cost)
	if w.Next.IsZero() {
		return s
	}
	return min(s, max(s/8, float64(l.at(w.Next)-t)))
}

// plan returns the moment until which a hold is expected to save most, and how
// much; t if none is worth it.
func (l *learned) plan(t, latest int64, w Waiting) (until int64, saves float64) {
	l.coming.advance(t)
	var (
		k      = float64(w.Queries)
		each   = float64(w.Cost) / k // what one query costs
		room   = math.Ceil(float64(w.Max-w.Cost) / each)
		spare  = float64(w.Free - 1) // so many who come would not have to wait
		s      = l.service.at(w.Cost)
		turn   = l.turn(t, w)
		unseen = l.coming.background()

		own, a, last float64
		tau          = float64(latest-t) / 64
		returns      = l.coming.expect(w.Group, int64(turn))
	)
	until = t
	for range lookahead {
		back := returns.within(int64(tau))
		later := max(0, returns.all-back)
		others := unseen * tau
		before := a
		a = min(back+others, room)
		own += (a + before) / 2 * (tau - last)
		if company := a - spare; company > 0 {
			alone := l.service.at(cost(company*each, w.Max))
			together := l.service.at(cost(a*each+float64(w.Cost), w.Max))
			// Of those who come anyway as many come later, and are delayed: by
			// the average-cost argument they halve the gain.
			share := (back + others/2) / (back + others)
			rest := 0.0
			if later >= 1 {
				rest = later * max(0, s+l.service.at(cost((company+later)*each, w.Max))-together-l.service.at(cost(later*each, w.Max))-slack*s)
			}
			net := share*company*(turn+alone-together) + rest - margin*(k*(together-s)+(k+later)*tau+own)
			if net > saves {
				saves, until = net, t+int64(tau)
			}
		}
		if a >= room || k*tau > (returns.all+unseen*turn)*turn { // longer holds only cost more
			break
		}
		last = tau
		tau *= longer
	}
	return until, saves
}

// cost rounds up what queries cost.
func cost(x float64, most int) int { return max(1, min(most, int(math.Ceil(x)))) }

func (h *hold) begin(t, latest int64, waiting int, saves float64) {
	h.on, h.since, h.until, h.latest, h.seen = true, t, t, latest, t
	h.first, h.now, h.waited, h.saves = waiting, waiting, 0, saves
}

// look books the time since the last look.
func (h *hold) look(t int64, waiting int) {
	h.waited += float64(h.now) * float64(t-h.seen)
	h.seen, h.now = t, waiting
}

// end sums a hold up. It reports false when holds have lost so often that there must
// be something wrong with the expectations.
func (h *hold) end(t int64, waiting int) bool {
	h.look(t, waiting)
	h.on = false
	gain := float64(max(0, waiting-h.first)) * h.saves
	if gain+h.waited > 0 {
		h.score += ((gain-h.waited)/(gain+h.waited) - h.score) / 8
	}
	if h.score < -0.2 {
		h.score = 0
		return false
	}
	return true
}
