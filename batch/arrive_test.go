package batch_test

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/shoalserve/shoal/batch"
)

// Many callers arrive at once, more than may wait, some leave, and the batcher
// drains in the end: each gets its own answer or an error that says why, nobody
// is forgotten, and the counts add up.
func TestManyCallersArriveAtOnce(t *testing.T) {
	const callers, each = 64, 200
	b := batch.New(options{Limits: batch.Limits{MaxBatchSize: 4, MaxQueued: 16}, Cost: func(in string) int {
		if in == "too large" {
			return 5
		}
		return 1
	}})
	r := b.AttachFunc(2, func(_ context.Context, in []string) ([]string, error) {
		out := make([]string, len(in))
		for i := range in {
			out[i] = "answer to " + in[i]
		}
		return out, nil
	})
	var asked, answered, full, left, tooLarge, draining atomic.Uint64
	var calling sync.WaitGroup
	for caller := range callers {
		calling.Go(func() {
			for i := range each {
				in, ctx, cancel := strconv.Itoa(caller*each+i), t.Context(), context.CancelFunc(func() {})
				switch {
				case i%19 == 0:
					in = "too large"
				case i%7 == 0:
					ctx, cancel = context.WithCancel(ctx)
					go cancel()
				}
				asked.Add(1)
				out, err := b.Do(ctx, in)
				cancel()
				var large *batch.TooLargeError
				switch {
				case err == nil && out == "answer to "+in:
					answered.Add(1)
				case errors.Is(err, batch.ErrQueueFull):
					full.Add(1)
				case errors.Is(err, context.Canceled) && i%7 == 0:
					left.Add(1)
				case errors.As(err, &large) && in == "too large":
					tooLarge.Add(1)
				case errors.Is(err, batch.ErrDraining):
					draining.Add(1)
				default:
					t.Errorf("query %s got %q, %v", in, out, err)
				}
			}
		})
	}
	for answered.Load() < callers*each/4 && asked.Load() < callers*each {
		if _, err := b.Do(context.Background(), "one more"); err == nil {
			answered.Add(1)
			asked.Add(1)
		}
	}
	if err := b.Drain(context.Background()); err != nil {
		t.Error(err)
	}
	calling.Wait()
	if err := r.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	if sum := answered.Load() + full.Load() + left.Load() + tooLarge.Load() + draining.Load(); sum != asked.Load() {
		t.Errorf("%d calls, %d ends", asked.Load(), sum)
	}
	s := b.Stats()
	if s.Admitted != s.Answered+s.Dropped+s.Failed || s.Queued+s.Running != 0 || s.Answered < answered.Load() {
		t.Errorf("the counts are %+v, %d were answered", s, answered.Load())
	}
	if tooLarge.Load() == 0 || answered.Load() == 0 {
		t.Errorf("%d answered, %d too large", answered.Load(), tooLarge.Load())
	}
}
