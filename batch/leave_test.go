package batch_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shoalserve/shoal/batch"
)

// company is a batch of two that a model computes in virtual time until its
// context ends, or for an hour.
type company struct {
	*testing.T
	batcher     *batch.Batcher[string, string]
	first, last *outcome
	cause       error // why the context ended; nil if it did not
	took        time.Duration
}

// keepCompany runs a test while the model computes.
func keepCompany(t *testing.T, test func(*company)) {
	synctest.Test(t, func(t *testing.T) {
		c := &company{T: t, first: newOutcome(nil, "a"), last: newOutcome(nil, "b")}
		c.batcher = batch.New(options{Limits: batch.Limits{MaxBatchSize: 2, BatchWaitTimeout: time.Hour}})
		r := c.batcher.AttachFunc(1, func(ctx context.Context, in []string) ([]string, error) {
			begun := time.Now()
			select {
			case <-ctx.Done():
			case <-time.After(time.Hour):
			}
			c.cause, c.took = context.Cause(ctx), time.Since(begun)
			return in, ctx.Err()
		})
		for _, q := range []*outcome{c.first, c.last} {
			check(t, "submit", c.batcher.Submit(&q.textQuery), nil)
		}
		synctest.Wait()
		test(c)
		check(t, "drain", c.batcher.Drain(t.Context()), nil)
		check(t, "stop", r.Stop(t.Context()), nil)
		check(t, "Done", c.first.done+c.last.done, 2)
	})
}

func (c *company) leave(q *outcome) {
	check(c, "withdrawn", c.batcher.Withdraw(&q.textQuery), false)
	synctest.Wait()
}

func TestAModelIsToldWhenEveryCallerHasLeft(t *testing.T) {
	keepCompany(t, func(c *company) {
		time.Sleep(time.Minute)
		c.leave(c.first)
		c.leave(c.first) // twice does not count twice
		check(t, "answered", c.first.done, 0)
		time.Sleep(time.Minute)
		c.leave(c.last)
		check(t, "cause", c.cause, batch.ErrAbandoned)
		check(t, "is a cancellation", errors.Is(c.first.Err, context.Canceled), true)
		check(t, "wasted", c.batcher.Stats().Wasted, 2*time.Minute)
		check(t, "batches", c.batcher.Stats().Batches, 1) // and none to isolate what nobody waits for
	})
}

func TestABatchThatSomeCallersLeftRunsOn(t *testing.T) {
	keepCompany(t, func(c *company) {
		c.leave(c.last)
		time.Sleep(time.Hour)
		synctest.Wait()
		check(t, "cause", c.cause, nil)
		check(t, "answer", c.first.Out, "a")
		check(t, "wasted", c.batcher.Stats().Wasted, time.Hour/2)
	})
}

func TestTheContextOfOneCallIsNotThatOfTheNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := batch.New(options{})
		var kept []context.Context
		r := b.AttachFunc(1, func(ctx context.Context, in []string) ([]string, error) {
			for _, old := range kept {
				check(t, "error of a call that has ended", old.Err(), context.Canceled)
			}
			check(t, "origin", batch.OriginOf(ctx), batch.API)
			check(t, "error", ctx.Err(), nil)
			_, limited := ctx.Deadline()
			check(t, "has a deadline", limited, false)
			kept = append(kept, ctx)
			derived, cancel := context.WithTimeout(ctx, time.Second)
			defer cancel()
			check(t, "derived", derived.Err(), nil)
			return in, nil
		})
		for range 3 {
			_, err := b.Do(t.Context(), "a")
			check(t, "error", err, nil)
		}
		check(t, "stop", r.Stop(t.Context()), nil)
	})
}

func TestACallerOfDoThatLeavesEndsTheContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := batch.New(options{})
		ended := make(chan error, 1)
		r := b.AttachFunc(1, func(ctx context.Context, in []string) ([]string, error) {
			<-ctx.Done()
			ended <- context.Cause(ctx)
			return in, nil
		})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := b.Do(ctx, "a")
		check(t, "error", errors.Is(err, context.DeadlineExceeded), true)
		check(t, "cause", <-ended, batch.ErrAbandoned)
		check(t, "stop", r.Stop(t.Context()), nil)
	})
}

func TestPartsOfASplitQueryThatLeavesAreToldToo(t *testing.T) {
	var cancelled []uint64
	s := &scene{T: t, clock: newVirtualClock()}
	s.Batcher = batch.New(options{
		Limits: batch.Limits{MaxBatchSize: 2}, Cost: length, Clock: s.clock,
		Split: func(in string, n int) []string { return []string{in[:n], in[n:]} },
		Join:  func(out []string) (string, error) { return out[0] + out[1], nil },
	})
	s.AttachReplica(batch.ReplicaOptions[string, string]{
		Run:    func(b *textBatch) { s.running = append(s.running, b) },
		Cancel: func(id uint64) { cancelled = append(cancelled, id) },
	})
	q := s.arriveWith(nil, "abcd")
	check(t, "withdrawn", s.Withdraw(&q.textQuery), false)
	check(t, "told", len(cancelled) == 1 && cancelled[0] == 1, true)
	check(t, "abandoned", s.running[0].Abandoned(), true)
	check(t, "computed", s.rest(), "ab: full")
	check(t, "is a cancellation", errors.Is(q.Err, context.Canceled), true)
}
