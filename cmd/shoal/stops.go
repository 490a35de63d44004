package main

import (
	"context"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"
)

// oneRequest is the time in which signals to stop are one request: timeout(1) and many
// supervisors send theirs to a process and then to its group.
const oneRequest = time.Second

// stops are the signals that ask a server to stop.
type stops struct{ signals chan os.Signal }

// catchStops keeps those signals from ending the process, from now on.
func catchStops() *stops {
	c := &stops{make(chan os.Signal, 1)}
	signal.Notify(c.signals, os.Interrupt, syscall.SIGTERM)
	return c
}

// hurried is a server that is stopping; see [server.Server].
type hurried interface {
	Hasten() bool
	Abort()
}

// watch makes a server hurry with each request after ctx has ended, until stop is
// called: whoever asks again does not want to wait. The first ends a shutdown_delay,
// if there is one, the next does not wait for queries either; one more has its usual
// effect and ends the process.
func (c *stops) watch(ctx context.Context, s hurried) (stop func()) {
	ended := make(chan struct{})
	var watching sync.WaitGroup
	watching.Go(func() {
		select {
		case <-ctx.Done():
			c.hurry(s, ended)
		case <-ended:
		}
	})
	return func() {
		close(ended)
		watching.Wait()
	}
}

// hurry is watch once the server is asked to stop, if by a signal or not.
func (c *stops) hurry(s hurried, ended <-chan struct{}) {
	for hastened := true; c.settle(ended); {
		if !hastened {
			signal.Stop(c.signals)
			return
		}
		select {
		case <-c.signals:
			if hastened = s.Hasten(); !hastened {
				s.Abort()
			}
		case <-ended:
			return
		}
	}
}

// settle drops the signals of the request that was just heard, and reports whether
// the server goes on.
func (c *stops) settle(ended <-chan struct{}) bool {
	over := time.NewTimer(oneRequest)
	defer over.Stop()
	for {
		select {
		case <-c.signals:
		case <-over.C:
			return true
		case <-ended:
			return false
		}
	}
}
