package batch_test

import (
	"strings"
	"testing"
	"time"

	"github.com/shoalserve/shoal/batch"
)

// witness is a departure policy that holds nothing and keeps what it was last shown.
type witness struct{ shown batch.Waiting }

func (w *witness) Arrived(time.Time, batch.Group)     {}
func (w *witness) Answered(time.Time, batch.Answered) {}
func (w *witness) Left(time.Time, batch.Waiting)      {}
func (w *witness) Hold(now time.Time, shown batch.Waiting) time.Time {
	w.shown = shown
	return now
}

func TestABusySlotIsFreeWhenTheCostOfItsBatchSays(t *testing.T) {
	w := &witness{}
	s := newScene(t, options{Departure: w, Cost: func(in string) int { return len(in) }})
	large := strings.Repeat("x", 8)
	for range 20 {
		for _, in := range []string{"x", large} {
			s.arrive(in)
			s.wait(time.Duration(len(in)) * time.Millisecond)
			s.next()
		}
	}
	s.Attach(1, func(b *textBatch) { s.running = append(s.running, b) })
	s.arrive(large, "x")
	if took := w.shown.Next.Sub(s.clock.now); took < 6*time.Millisecond {
		t.Errorf("a batch of one query that takes 8 ms is expected to take %v", took)
	}
	s.rest()
}
