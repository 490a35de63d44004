package batch

import "time"

// Clock is where a Batcher reads time. The zero Options use the real one.
type Clock interface {
	Now() time.Time
	// AfterFunc calls f in its own goroutine (or event) after d.
	AfterFunc(d time.Duration, f func()) Timer
}

// Timer is a pending call of [Clock.AfterFunc].
type Timer interface {
	// Stop prevents the call; it reports false when it came too late.
	Stop() bool
}

type realClock struct{}

func (realClock) Now() time.Time { return time.Now() }

func (realClock) AfterFunc(d time.Duration, f func()) Timer { return time.AfterFunc(d, f) }
