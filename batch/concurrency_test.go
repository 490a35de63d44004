package batch_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shoalserve/shoal/batch"
)

// Callers, replicas that come and go, and changes of the limits, all at once:
// each caller must get its own answer or an error that explains itself, and
// nothing may hang. Inputs are numbers separated by commas.
func TestEverythingAtOnce(t *testing.T) {
	t.Run("in real time", func(t *testing.T) {
		everythingAtOnce(t, 150, func() {
			for range rand.IntN(10) {
				runtime.Gosched()
			}
		})
	})
	// In virtual time holds and deadlines end in many orders.
	t.Run("in virtual time", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			everythingAtOnce(t, 60, func() { time.Sleep(randomTime(100)) })
		})
	})
}

func randomTime(mostMicroseconds int) time.Duration {
	return time.Duration(rand.IntN(mostMicroseconds)) * time.Microsecond
}

func everythingAtOnce(t *testing.T, each int, pause func()) {
	b := batch.New(options{
		Limits: batch.Limits{MaxBatchSize: 4, MaxQueued: 40, MaxQueuedBytes: 200},
		Key:    func(in string) string { return in[len(in)-1:] },
		Cost:   func(in string) int { return strings.Count(in, ",") + 1 },
		Size:   func(in string) int64 { return int64(len(in)) },
		Split:  func(in string, _ int) []string { return strings.Split(in, ",") },
		Join:   func(outs []string) (string, error) { return strings.Join(outs, ","), nil },
	})
	attach := func() *batch.FuncReplica[string, string] {
		return b.AttachFunc(1+rand.IntN(2), func(_ context.Context, in []string) ([]string, error) {
			pause()
			return moody(in)
		})
	}
	permanent := attach()

	var callers, others sync.WaitGroup
	for range 8 {
		callers.Go(func() {
			for range each {
				doOne(t, b)
			}
		})
		callers.Go(func() {
			for range each {
				submitOne(t, b)
			}
		})
	}
	over, end := context.WithCancel(context.Background())
	others.Go(func() {
		for over.Err() == nil {
			b.Update(batch.Limits{
				MaxBatchSize: 1 + rand.IntN(6), MaxQueued: 10 + rand.IntN(40), MaxQueuedBytes: 200,
				BatchWaitTimeout: time.Duration(rand.IntN(3)) * 100 * time.Microsecond,
			})
			b.Stats()
			pause()
		}
	})
	others.Go(func() {
		for over.Err() == nil {
			r := attach()
			pause()
			ctx, cancel := context.WithTimeout(context.Background(), randomTime(200))
			if err := r.Stop(ctx); err != nil {
				_ = r.Stop(context.Background())
			}
			cancel()
		}
	})
	callers.Wait()
	end()
	others.Wait()

	// The batcher closes while callers go on.
	for range 4 {
		callers.Go(func() {
			for !errors.Is(doOne(t, b), batch.ErrDraining) {
			}
		})
	}
	for range 3 {
		callers.Go(func() {
			if err := b.Drain(context.Background()); err != nil {
				t.Error(err)
			}
		})
	}
	callers.Wait()
	if err := permanent.Stop(context.Background()); err != nil {
		t.Error(err)
	}
	s := b.Stats()
	check(t, "left behind", s.Queued+s.Running, 0)
	check(t, "answered, failed or dropped", s.Answered+s.Failed+s.Dropped, s.Admitted)
}

// moody is a model that answers, fails, fails items, miscounts or panics.
func moody(in []string) ([]string, error) {
	out := make([]string, len(in))
	for i := range in {
		out[i] = upper(in[i])
		if in[i][len(in[i])-1] != in[0][len(in[0])-1] {
			panic("two keys in one batch")
		}
	}
	switch rand.IntN(10) {
	case 0:
		return nil, errModel
	case 1:
		items := make(batch.ItemErrors, len(in))
		items[rand.IntN(len(in))] = errItem
		return out, items
	case 2:
		return out[1:], nil
	case 3:
		panic(errModel)
	}
	return out, nil
}

// upper is the right answer: "1,2,3" becomes "<1>,<2>,<3>".
func upper(in string) string { return "<" + strings.ReplaceAll(in, ",", ">,<") + ">" }

var inputs atomic.Int64

// newInput returns one to eight numbers that no other input has.
func newInput() string {
	var parts []string
	for range 1 + max(0, rand.IntN(16)-8) {
		parts = append(parts, fmt.Sprint(inputs.Add(1)*10+1)) // all of one key
	}
	if rand.IntN(4) == 0 {
		return fmt.Sprint(inputs.Add(1)*10 + rand.Int64N(10))
	}
	return strings.Join(parts, ",")
}

// newContext returns a context that may have ended, may end soon, or never.
func newContext() (context.Context, context.CancelFunc) {
	switch rand.IntN(4) {
	case 0:
		return context.WithTimeout(context.Background(), randomTime(300))
	case 1:
		ctx, cancel := context.WithCancel(context.Background())
		time.AfterFunc(randomTime(100), cancel)
		return ctx, cancel
	}
	return context.WithCancel(context.Background())
}

// checkOutcome checks that a query got its own answer or an error it may get.
func checkOutcome(t *testing.T, in, out string, err error) {
	_, miscount := errors.AsType[*batch.CountError](err)
	allowed := []error{errModel, errItem, batch.ErrStopped, batch.ErrQueueFull, batch.ErrDraining, context.Canceled, context.DeadlineExceeded}
	switch {
	case err == nil && out != upper(in):
		t.Errorf("query %s got %s", in, out)
	case err != nil && !miscount && !slices.ContainsFunc(allowed, func(e error) bool { return errors.Is(err, e) }):
		t.Errorf("query %s got the error %v", in, err)
	}
}

func doOne(t *testing.T, b *batch.Batcher[string, string]) error {
	ctx, cancel := newContext()
	defer cancel()
	in := newInput()
	out, err := b.Do(ctx, in)
	checkOutcome(t, in, out, err)
	return err
}

// submitOne submits a query, may withdraw it, and waits for what it was promised.
func submitOne(t *testing.T, b *batch.Batcher[string, string]) {
	ctx, cancel := newContext()
	defer cancel()
	var times atomic.Int64
	done := make(chan struct{})
	q := &textQuery{Context: ctx, In: newInput(), Origin: batch.Origin(rand.IntN(2))}
	q.Done = func(*textQuery) {
		if times.Add(1) == 1 {
			close(done)
		}
	}
	if err := b.Submit(q); err != nil {
		checkOutcome(t, q.In, "", err)
		check(t, "Done of a refused query", times.Load(), 0)
		return
	}
	if rand.IntN(3) == 0 && b.Withdraw(q) {
		check(t, "Done of a withdrawn query", times.Load(), 0)
		return
	}
	<-done
	checkOutcome(t, q.In, q.Out, q.Err)
	check(t, "Done", times.Load(), 1)
}
