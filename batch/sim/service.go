package sim

import (
	"math/rand/v2"
	"time"
)

// Service draws the time that a replica takes for a batch of n.
type Service func(n int, r *rand.Rand) time.Duration

// Flat takes d for any batch.
func Flat(d time.Duration) Service {
	return func(int, *rand.Rand) time.Duration { return d }
}

// Linear takes fixed, and each for every query.
func Linear(fixed, each time.Duration) Service {
	return func(n int, _ *rand.Rand) time.Duration { return fixed + time.Duration(n)*each }
}

// Stepped takes d for every size queries that were begun.
func Stepped(size int, d time.Duration) Service {
	return func(n int, _ *rand.Rand) time.Duration { return time.Duration((n+size-1)/size) * d }
}

// Jitter makes a service vary: by a factor around 1 with the given deviation,
// but at least 0.2.
func Jitter(s Service, deviation float64) Service {
	return func(n int, r *rand.Rand) time.Duration {
		factor := max(0.2, 1+deviation*r.NormFloat64())
		return time.Duration(float64(s(n, r)) * factor)
	}
}

// Pauses lets every so many batches, on the mean, take d longer.
func Pauses(s Service, every int, d time.Duration) Service {
	return func(n int, r *rand.Rand) time.Duration {
		took := s(n, r)
		if r.IntN(every) == 0 {
			took += d
		}
		return took
	}
}
