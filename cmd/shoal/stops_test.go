package main

import (
	"context"
	"os"
	"slices"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// impatient is a server that notes how it is hurried.
type impatient struct {
	delayed bool // it has a shutdown_delay, still
	done    []string
}

func (s *impatient) Hasten() bool {
	if !s.delayed {
		return false
	}
	s.delayed, s.done = false, append(s.done, "hasten")
	return true
}

func (s *impatient) Abort() { s.done = append(s.done, "abort") }

func TestSignalsTogetherAreOneRequest(t *testing.T) {
	const soon, later = time.Millisecond, oneRequest + time.Millisecond
	for name, test := range map[string]struct {
		delayed bool
		pauses  []time.Duration // before each signal that follows the first
		want    []string
	}{
		"one":                   {pauses: nil},
		"its double":            {pauses: []time.Duration{0}},
		"a second's worth":      {pauses: []time.Duration{soon, soon, oneRequest - 3*soon}},
		"a second one":          {pauses: []time.Duration{later}, want: []string{"abort"}},
		"both doubled":          {pauses: []time.Duration{soon, later, soon, soon}, want: []string{"abort"}},
		"of a delay":            {delayed: true, pauses: []time.Duration{later}, want: []string{"hasten"}},
		"of a delay, doubled":   {delayed: true, pauses: []time.Duration{soon, later, soon}, want: []string{"hasten"}},
		"of a delay, and again": {delayed: true, pauses: []time.Duration{soon, later, soon, later, soon}, want: []string{"hasten", "abort"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, s := &stops{make(chan os.Signal, 1)}, &impatient{delayed: test.delayed}
				ctx, cancel := context.WithCancel(t.Context())
				stop := c.watch(ctx, s)
				c.signals <- syscall.SIGTERM
				cancel() // as main does on it
				synctest.Wait()
				for _, pause := range test.pauses {
					time.Sleep(pause)
					synctest.Wait()
					c.signals <- syscall.SIGTERM
					synctest.Wait()
				}
				stop()
				if !slices.Equal(s.done, test.want) {
					t.Errorf("it was hurried by %v, want %v", s.done, test.want)
				}
			})
		})
	}
}

func TestAServerThatIsStoppedOtherwiseIsHurriedByTheFirstSignal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := &stops{make(chan os.Signal, 1)}, &impatient{}
		ctx, cancel := context.WithCancel(t.Context())
		stop := c.watch(ctx, s)
		cancel() // as the end of standard input does
		time.Sleep(2 * oneRequest)
		c.signals <- syscall.SIGTERM
		synctest.Wait()
		stop()
		if !slices.Equal(s.done, []string{"abort"}) {
			t.Errorf("it was hurried by %v", s.done)
		}
	})
}
