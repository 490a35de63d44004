package batch_test

import (
	"strconv"
	"testing"
	"time"

	"github.com/shoalserve/shoal/batch"
)

// What the departure policy costs a query where it matters: a closed loop of
// callers, a model that takes 5 ms, time that is advanced by hand.
func BenchmarkDeparture(b *testing.B) {
	for _, callers := range []int{16, 32} {
		for name, once := range map[string]bool{"at once": true, "learned": false} {
			b.Run(name+"/"+strconv.Itoa(callers), func(b *testing.B) { benchmarkDeparture(b, callers, once) })
		}
	}
}

func benchmarkDeparture(b *testing.B, callers int, once bool) {
	clock := newVirtualClock()
	q := batch.New(batch.Options[int, int]{Limits: batch.Limits{LeaveAtOnce: once}, Clock: clock})
	var running []*batch.Batch[int, int]
	q.Attach(1, func(b *batch.Batch[int, int]) { running = append(running, b) })
	var back []*batch.Query[int, int]
	done := func(query *batch.Query[int, int]) { back = append(back, query) }
	for range callers {
		back = append(back, &batch.Query[int, int]{Done: done})
	}
	b.ReportAllocs()
	for n := 0; n < b.N; {
		returning := back
		back = nil
		for _, query := range returning {
			clock.now = clock.now.Add(20 * time.Microsecond)
			if err := q.Submit(query); err != nil {
				b.Fatal(err)
			}
		}
		n += len(returning)
		if len(running) == 0 { // held: let it end
			clock.advance(clock.now.Add(5 * time.Millisecond))
		}
		clock.now = clock.now.Add(5 * time.Millisecond)
		computed := running[0]
		running = running[:0]
		computed.Complete()
	}
	s := q.Stats()
	b.ReportMetric(float64(s.Answered)/float64(s.Batches), "queries/batch")
}
