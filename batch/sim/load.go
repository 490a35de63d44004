package sim

import (
	"math/rand/v2"
	"time"
)

// Load puts queries into a world.
type Load func(*Source)

// Delay draws a time.
type Delay func(*rand.Rand) time.Duration

// Exactly is always d.
func Exactly(d time.Duration) Delay { return func(*rand.Rand) time.Duration { return d } }

// Exponential has the mean d.
func Exponential(d time.Duration) Delay {
	return func(r *rand.Rand) time.Duration { return time.Duration(r.ExpFloat64() * float64(d)) }
}

// Uniform lies between low and high.
func Uniform(low, high time.Duration) Delay {
	return func(r *rand.Rand) time.Duration { return low + time.Duration(r.Int64N(int64(high-low)+1)) }
}

// Sum adds delays.
func Sum(delays ...Delay) Delay {
	return func(r *rand.Rand) (sum time.Duration) {
		for _, d := range delays {
			sum += d(r)
		}
		return sum
	}
}

// Closed is a number of clients of which each asks again after it was answered,
// thought for a while, and had its turn: one client after the other is served by
// the front, each taking front's time, as over HTTP on few cores.
func Closed(clients int, front time.Duration, think Delay) Load {
	return loop(clients, Uniform(0, 20*time.Millisecond), front, think)
}

// Churn is clients as in Closed that come and go: each asks a number of queries with
// the given mean, then stays away for a while.
func Churn(clients int, queries float64, away Delay, front time.Duration, think Delay) Load {
	return loop(clients, away, front, func(r *rand.Rand) time.Duration {
		d := think(r)
		if r.Float64()*queries < 1 {
			d += away(r)
		}
		return d
	})
}

// loop is clients that come after first, and again when they were answered, had
// their turn at the front, and paused.
func loop(clients int, first Delay, front time.Duration, pause Delay) Load {
	return func(s *Source) {
		var busy time.Time
		var ask func()
		ask = func() {
			s.Ask(func() {
				now := s.Clock.Now()
				if busy.Before(now) {
					busy = now
				}
				busy = busy.Add(front)
				s.Clock.AfterFunc(busy.Sub(now)+pause(s.Rand), ask)
			})
		}
		for range clients {
			s.Clock.AfterFunc(first(s.Rand), ask)
		}
	}
}

// Poisson is an open stream of so many queries a second.
func Poisson(rate float64) Load {
	return func(s *Source) {
		gap := Exponential(time.Duration(float64(time.Second) / rate))
		var next func()
		next = func() {
			s.Ask(nil)
			s.Clock.AfterFunc(gap(s.Rand), next)
		}
		s.Clock.AfterFunc(gap(s.Rand), next)
	}
}

// Bursts are size queries that come within spread, at intervals of every.
func Bursts(size int, spread time.Duration, every Delay) Load {
	return func(s *Source) {
		var next func()
		next = func() {
			for range size {
				s.Clock.AfterFunc(Uniform(0, spread)(s.Rand), func() { s.Ask(nil) })
			}
			s.Clock.AfterFunc(every(s.Rand), next)
		}
		s.Clock.AfterFunc(every(s.Rand), next)
	}
}

// Between is a load's queries of which no others come than those between two moments
// after the beginning.
func Between(from, to time.Duration, l Load) Load {
	return func(s *Source) {
		s.Clock.AfterFunc(from, func() {
			l(s)
			s.Clock.AfterFunc(to-from, func() { s.over = true })
		})
	}
}
