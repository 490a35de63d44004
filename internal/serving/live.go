package serving

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/shoalserve/shoal/batch"
)

// VerifiedStatus counts the live queries that were computed a second time, alone.
type VerifiedStatus struct {
	// Same and Different are how the answers compare.
	Same      uint64 `json:"same"`
	Different uint64 `json:"different"`
	// Skipped were not computed again: no replica was idle for them, too many
	// waited, they were too large, or the backend was closed.
	Skipped uint64 `json:"skipped"`
	// Failed could not be: their replica died, say, or the time was over.
	Failed uint64 `json:"failed"`
	// LargestDifference is that of two numbers.
	LargestDifference float64 `json:"largest_difference"`
	// Samples are the last few differences, in words.
	Samples []string `json:"samples,omitempty"`
}

// twice is how a kind of model has a query computed a second time.
type twice[In, Out any] interface {
	// keep copies what a query brought and what came of it, before those whose
	// memory it is use it again. It reports false if that is too much to keep.
	keep(*batch.Query[In, Out]) (kept[In], bool)
	// prepare makes what was kept ready to be computed by a backend's instances.
	prepare(backend string, of Instance[In, Out], in In) error
	// answer copies what came of the second query, and releases its input.
	answer(*batch.Query[In, Out]) Answer
	// release undoes prepare.
	release(In)
}

// kept is a query that was answered in company.
type kept[In any] struct {
	in      In
	origin  batch.Origin
	answer  Answer
	request string // its ID; empty for queries of handles
	trip    batch.Trip
}

// The most queries that wait to be computed again, and how long they may wait for
// an idle replica: pauses double from the first to the last.
const (
	maxKept    = 16
	firstPause = 2 * time.Millisecond
	lastPause  = 512 * time.Millisecond
)

// live computes some of a pool's queries a second time, alone, when a replica is
// idle, and compares.
type live[In, Out any] struct {
	pool  *Pool[In, Out]
	twice twice[In, Out]
	said  rate.Sometimes // bounds the log

	findings
	skipped, failed atomic.Uint64

	keeping sync.Mutex
	waiting []kept[In]
	working bool           // there is a goroutine; Close waits for it
	over    bool           // there will be no other
	work    sync.WaitGroup // of it
}

func newLive[In, Out any](p *Pool[In, Out], t twice[In, Out]) *live[In, Out] {
	return &live[In, Out]{pool: p, twice: t, said: rate.Sometimes{Interval: 10 * time.Second}}
}

// sample keeps one in n of a batch's queries. It is called before their answers go out.
func (l *live[In, Out]) sample(b *batch.Batch[In, Out], n int) {
	if b.Err != nil || l.twice == nil {
		return
	}
	for _, q := range b.Queries {
		if rand.IntN(n) == 0 {
			l.take(q)
		}
	}
}

// take keeps a query to be computed again, if there is room.
func (l *live[In, Out]) take(q *batch.Query[In, Out]) {
	if q.Err != nil && !Describe(ModelFailure(l.pool.name, q.Err, q.Trip)).Model {
		return // the server's error says nothing of the model
	}
	l.keeping.Lock()
	room := !l.over && len(l.waiting) < maxKept
	l.keeping.Unlock()
	if !room {
		l.skipped.Add(1)
		return
	}
	k, ok := l.twice.keep(q)
	if !ok {
		l.skipped.Add(1)
		return
	}
	k.origin, k.trip = q.Origin, q.Trip
	l.keeping.Lock()
	defer l.keeping.Unlock()
	if l.over {
		l.skipped.Add(1)
		return
	}
	l.waiting = append(l.waiting, k)
	if !l.working {
		l.working = true
		l.work.Go(l.run) // ends when none is left; close waits for it
	}
}

// run computes what was kept, one query after the other.
func (l *live[In, Out]) run() {
	for {
		l.keeping.Lock()
		if len(l.waiting) == 0 {
			l.working, l.waiting = false, nil
			l.keeping.Unlock()
			return
		}
		k := l.waiting[0]
		l.waiting[0] = kept[In]{}
		l.waiting = l.waiting[1:]
		l.keeping.Unlock()
		l.verify(k)
	}
}

// close skips what waits and ends the goroutine.
func (l *live[In, Out]) close() {
	l.keeping.Lock()
	l.over = true
	l.skipped.Add(uint64(len(l.waiting)))
	l.waiting = nil
	l.keeping.Unlock()
	l.work.Wait()
}

// verify computes a query again and counts how its answers compare.
func (l *live[In, Out]) verify(k kept[In]) {
	again, err := l.alone(k)
	_, tooCostly := errors.AsType[*batch.TooLargeError](err) // max_batch_size was lowered meanwhile
	switch {
	case errors.Is(err, errBusy), errors.Is(err, errTooLarge), errors.Is(err, batch.ErrDraining), tooCostly:
		l.skipped.Add(1)
		return
	case err != nil:
		l.failed.Add(1)
		return
	}
	l.compare(k, again)
}

// Why a query is skipped.
var (
	errBusy     = errors.New("no replica was idle")
	errTooLarge = errors.New("the answer is too large to be compared")
)

// alone computes a query in a batch of its own and returns what came of it; an error
// says why it was not computed.
func (l *live[In, Out]) alone(k kept[In]) (Answer, error) {
	p := l.pool
	if err := l.twice.prepare(p.name, *p.newest.Load(), k.in); err != nil {
		return Answer{}, err
	}
	done := make(chan Answer, 1) // with room, so that nobody waits for us
	q := &batch.Query[In, Out]{In: k.in, Origin: k.origin, Done: func(q *batch.Query[In, Out]) { done <- l.twice.answer(q) }}
	if err := l.idle(q); err != nil {
		l.twice.release(k.in)
		return Answer{}, err
	}
	ctx, cancel := context.WithTimeout(p.grace, p.timeout())
	defer cancel()
	select {
	case again := <-done:
		if again.Err != nil && !Describe(again.Err).Model {
			return again, again.Err
		}
		return again, nil
	case <-ctx.Done():
		p.batcher.Withdraw(q) // which runs; the model may hear of it
		return Answer{}, context.Cause(ctx)
	}
}

// idle starts a query when a replica is idle; errBusy if none is for long.
func (l *live[In, Out]) idle(q *batch.Query[In, Out]) error {
	for pause := firstPause; pause <= lastPause; pause *= 2 {
		select {
		case <-time.After(pause):
		case <-l.pool.open.Done():
			return batch.ErrDraining
		}
		if started, err := l.pool.batcher.SubmitIdle(q); started || err != nil {
			return err
		}
	}
	return errBusy
}

// compare compares a query's answers, and says so when they differ.
func (l *live[In, Out]) compare(k kept[In], again Answer) {
	how := Compare{}
	if c := l.pool.config.Load().VerifyCompare; c != nil {
		how = *c
	}
	d := how.answers(k.answer.written(), again.written(), true)
	different := l.note(d)
	if d.What == "" {
		return
	}
	l.said.Do(func() {
		l.pool.log.Warn("a query got another answer in a batch than alone",
			slog.String("request_id", k.request), slog.Uint64("batch", k.trip.BatchID), slog.Int("batch_size", k.trip.BatchSize),
			slog.String("difference", d.What), slog.Uint64("different_so_far", different))
	})
}

func (l *live[In, Out]) status() VerifiedStatus {
	l.mu.Lock()
	defer l.mu.Unlock()
	return VerifiedStatus{
		Same: l.same, Different: l.different, Skipped: l.skipped.Load(), Failed: l.failed.Load(),
		LargestDifference: l.largest, Samples: slices.Clone(l.samples),
	}
}
