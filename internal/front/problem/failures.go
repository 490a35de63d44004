package problem

import (
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/shoalserve/shoal/internal/serving"
)

// Failures tells the operator what callers are not told: of each backend the
// first failures whole, and then one now and again with how many came between.
// The metrics count them all. It may be used by any goroutine.
type Failures struct {
	log      *slog.Logger
	backends sync.Map // of string to *backendFailures
}

// NewFailures returns Failures that go to a log.
func NewFailures(log *slog.Logger) *Failures { return &Failures{log: log} }

const (
	firstFailures   = 10
	failureInterval = 10 * time.Second
)

// backendFailures is what came of one backend.
type backendFailures struct {
	sometimes  rate.Sometimes
	suppressed atomic.Int64
}

// Tell tells of a call that is done and failed. id is the request's; it may be empty.
func (f *Failures) Tell(id string, c *serving.Call) {
	name := c.Backend.Name()
	found, ok := f.backends.Load(name)
	if !ok {
		found, _ = f.backends.LoadOrStore(name, &backendFailures{sometimes: rate.Sometimes{First: firstFailures, Interval: failureInterval}})
	}
	b := found.(*backendFailures)
	told := false
	b.sometimes.Do(func() {
		told = true
		args := []any{"backend", name, "error", c.Err}
		if id != "" {
			args = append(args, "request", id)
		}
		if model, ok := errors.AsType[*serving.ModelError](c.Err); ok && model.Traceback != "" {
			args = append(args, "traceback", model.Traceback)
		}
		if n := b.suppressed.Swap(0); n > 0 {
			args = append(args, "suppressed", n)
		}
		f.log.Warn("query failed", args...)
	})
	if !told {
		b.suppressed.Add(1)
	}
}
