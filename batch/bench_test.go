package batch_test

import (
	"context"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/shoalserve/shoal/batch"
)

// echo answers at once: what is left is the cost of the batcher.
func echo(_ context.Context, in []int) ([]int, error) { return in, nil }

func newEcho(b *testing.B, opts batch.Options[int, int]) *batch.Batcher[int, int] {
	q := batch.New(opts)
	r := q.AttachFunc(1, echo)
	b.Cleanup(func() { _ = r.Stop(context.Background()) })
	b.ReportAllocs()
	return q
}

// share runs do b.N times over the callers and reports the mean batch.
func share(b *testing.B, q *batch.Batcher[int, int], callers int, do func(i int64)) {
	var next atomic.Int64
	var running sync.WaitGroup
	b.ResetTimer()
	for range callers {
		running.Go(func() {
			for i := next.Add(1); i <= int64(b.N); i = next.Add(1) {
				do(i)
			}
		})
	}
	running.Wait()
	b.StopTimer()
	s := q.Stats()
	b.ReportMetric(float64(s.Answered)/float64(s.Batches), "queries/batch")
}

func BenchmarkDo1Caller(b *testing.B) {
	q := newEcho(b, batch.Options[int, int]{})
	ctx := b.Context()
	for b.Loop() {
		if _, err := q.Do(ctx, 1); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDo64Callers(b *testing.B) {
	q := newEcho(b, batch.Options[int, int]{})
	share(b, q, 64, func(i int64) {
		if out, err := q.Do(b.Context(), int(i)); err != nil || out != int(i) {
			b.Error(out, err)
		}
	})
}

// Each of the 64 callers submits its next query from Done.
func BenchmarkSubmit64Callers(b *testing.B) {
	q := newEcho(b, batch.Options[int, int]{})
	var next atomic.Int64
	var running sync.WaitGroup
	running.Add(64)
	submit := func(query *batch.Query[int, int]) {
		if next.Add(1) > int64(b.N) {
			running.Done()
		} else if err := q.Submit(query); err != nil {
			b.Error(err)
		}
	}
	b.ResetTimer()
	for range 64 {
		submit(&batch.Query[int, int]{Done: submit})
	}
	running.Wait()
	b.StopTimer()
	s := q.Stats()
	b.ReportMetric(float64(s.Answered)/float64(s.Batches), "queries/batch")
}

func BenchmarkDo64CallersManyKeys(b *testing.B) {
	keys := make([]string, 256)
	for i := range keys {
		keys[i] = "key " + strconv.Itoa(i)
	}
	q := newEcho(b, batch.Options[int, int]{Key: func(in int) string { return keys[in%len(keys)] }})
	share(b, q, 64, func(i int64) {
		if out, err := q.Do(b.Context(), int(i)); err != nil || out != int(i) {
			b.Error(out, err)
		}
	})
}

// Full batches whose queries have contexts that can end, as a server's do.
func BenchmarkDo64CallersCancellable(b *testing.B) {
	q := newEcho(b, batch.Options[int, int]{})
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	share(b, q, 64, func(i int64) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		if out, err := q.Do(ctx, int(i)); err != nil || out != int(i) {
			b.Error(out, err)
		}
	})
}
