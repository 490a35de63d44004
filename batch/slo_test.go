package batch_test

import (
	"strings"
	"testing"
	"time"

	"github.com/shoalserve/shoal/batch"
)

// teach lets a scene compute batches of the given sizes, in a time that is 2 ms
// and 1 ms for each query.
func (s *scene) teach(sizes ...int) {
	for _, n := range sizes {
		s.arrive(strings.Split(strings.Repeat("x", n), "")...) // the first leaves at once
		for len(s.running) > 0 {
			s.wait(time.Duration(2+len(s.running[0].Queries)) * time.Millisecond)
			s.next()
		}
	}
}

func newTaught(t *testing.T, l batch.Limits) *scene {
	l.MaxBatchSize = 16
	s := newScene(t, options{Limits: l})
	s.teach(2, 3, 4, 5, 7, 9, 11, 13, 15, 17)
	return s
}

func TestLatencySLOCutsABatchToWhatMeetsIt(t *testing.T) {
	for name, c := range map[string]struct {
		slo  time.Duration
		wait time.Duration // that the oldest has waited when the replica gets free
		want string
	}{
		"no objective":                      {0, 3 * time.Millisecond, "bcdefghijklm: free"},
		"an objective that all meet":        {40 * time.Millisecond, 3 * time.Millisecond, "bcdefghijklm: free"},
		"one that a smaller batch meets":    {15 * time.Millisecond, 3 * time.Millisecond, "bcdefghij: slo, klm: free"},
		"one that nobody can meet any more": {15 * time.Millisecond, 20 * time.Millisecond, "bcdefghijklm: free"},
		"one that no batch can ever meet":   {2 * time.Millisecond, 0, "bcdefghijklm: free"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newTaught(t, batch.Limits{LatencySLO: c.slo, LeaveAtOnce: true})
			s.arrive(strings.Split("abcdefghijklm", "")...)
			s.wait(c.wait)
			s.next()
			check(t, "batches", strings.ReplaceAll(strings.ReplaceAll(s.rest(), " ", ""), ":", ": "), strings.ReplaceAll(c.want, ", ", ","))
		})
	}
}

func TestLatencySLOEndsAHoldEarly(t *testing.T) {
	s := newTaught(t, batch.Limits{LatencySLO: 50 * time.Millisecond, LeaveAtOnce: true})
	l := s.Limits()
	l.BatchWaitTimeout = 40 * time.Millisecond
	s.Update(l)
	s.arrive("a", "b")
	s.wait(29 * time.Millisecond) // a batch of 16 takes 18 ms, or a little longer
	check(t, "running after 29 ms", len(s.running), 0)
	s.wait(3 * time.Millisecond)
	check(t, "after 32 ms", s.rest(), "a b: timeout")
}

func TestNothingIsSentAheadThatWouldMissTheObjective(t *testing.T) {
	for slo, want := range map[time.Duration]int{0: 2, 30 * time.Millisecond: 1, 60 * time.Millisecond: 2} {
		s := &scene{T: t, clock: newVirtualClock()}
		s.Batcher = batch.New(options{Limits: batch.Limits{MaxBatchSize: 16, LatencySLO: slo, LeaveAtOnce: true}, Clock: s.clock})
		s.replica = s.attachAhead()
		s.teach(2, 3, 4, 5, 7, 9, 11, 13, 15, 16)
		s.arrive("a")
		s.arrive(strings.Split(strings.Repeat("b", 16), "")...)
		s.next() // the full batch begins
		s.arrive(strings.Split(strings.Repeat("c", 16), "")...)
		check(t, "batches at the replica with the objective "+slo.String(), len(s.running), want)
		s.rest()
	}
}
