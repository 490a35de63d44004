package batch_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/shoalserve/shoal/batch"
)

// rows is a scene whose queries are rows separated by commas; a batch holds
// three rows, and answers join with commas again.
func rows(t *testing.T, change func(*options)) *scene {
	opts := options{
		Limits: batch.Limits{MaxBatchSize: 3},
		Cost:   func(in string) int { return len(strings.Split(in, ",")) },
		Split: func(in string, most int) (parts []string) {
			for part := range slices.Chunk(strings.Split(in, ","), most) {
				parts = append(parts, strings.Join(part, ","))
			}
			return parts
		},
		Join: func(outs []string) (string, error) { return strings.Join(outs, ","), nil },
	}
	if change != nil {
		change(&opts)
	}
	return newScene(t, opts)
}

func TestALargeQueryIsSplitAndItsAnswersJoined(t *testing.T) {
	s := rows(t, nil)
	q := s.arrive("a,b,c,d,e,f,g")[0]
	s.wait(time.Second)
	s.arrive("h", "i")
	check(t, "first", s.next(), "a,b,c: full")
	s.wait(time.Second)
	check(t, "rest", s.rest(), "d,e,f: full, g h i: full")
	check(t, "answer", q.Out, "A,B,C,D,E,F,G")
	check(t, "Done", q.done, 1)
	check(t, "trip", q.Trip, batch.Trip{Computed: 2 * time.Second, BatchID: 3, BatchSize: 3, Reason: batch.Full, Attempts: 1})
}

func TestASplitQueryFailsWhenOnePartFails(t *testing.T) {
	s := rows(t, nil)
	q := s.arrive("a,b,c,d,e,f")[0]
	s.running[0].Finish(nil, errModel)
	s.running = s.running[1:]
	check(t, "Done before the last part", q.done, 0)
	s.rest()
	check(t, "Done", q.done, 1)
	check(t, "error", q.Err, errModel)
}

func TestASplitQueryIsAdmittedWholeOrNotAtAll(t *testing.T) {
	s := rows(t, func(o *options) { o.MaxQueued = 3 })
	s.arrive("busy", "x", "y")
	q := newOutcome(nil, "a,b,c,d")
	if err := s.Submit(&q.textQuery); !errors.Is(err, batch.ErrQueueFull) {
		t.Errorf("got %v, want ErrQueueFull", err)
	}
	check(t, "queued", s.Stats().Queued, 2)
	check(t, "batches", s.rest(), "busy: free, x y: free")

	s.arrive("busy")
	whole := s.arrive("a,b,c,d,e,f,g,h,i,j,k,l,m")[0] // five parts, but nothing else waits
	s.rest()
	check(t, "answer", whole.Out, "A,B,C,D,E,F,G,H,I,J,K,L,M")
}

func TestASplitQueryCanBeWithdrawn(t *testing.T) {
	t.Run("before any part left", func(t *testing.T) {
		s := rows(t, nil)
		s.arrive("busy")
		q := s.arrive("a,b,c,d")[0]
		check(t, "withdraw", s.Withdraw(&q.textQuery), true)
		check(t, "withdraw again", s.Withdraw(&q.textQuery), false)
		check(t, "batches", s.rest(), "busy: free")
		check(t, "Done", q.done, 0)
		check(t, "dropped", s.Stats().Dropped, 2)
	})
	t.Run("while a part is computed", func(t *testing.T) {
		s := rows(t, nil)
		q := s.arrive("a,b,c,d,e,f")[0]
		check(t, "withdraw", s.Withdraw(&q.textQuery), false)
		check(t, "batches", s.rest(), "a,b,c: full")
		check(t, "Done", q.done, 1)
		check(t, "is Canceled", errors.Is(q.Err, context.Canceled), true)
	})
	t.Run("between two parts", func(t *testing.T) {
		s := rows(t, nil)
		q := s.arrive("a,b,c,d,e,f")[0]
		done := s.replica.Detach()
		s.next()
		<-done
		check(t, "withdraw", s.Withdraw(&q.textQuery), true)
		check(t, "Done", q.done, 0)
	})
	t.Run("too late", func(t *testing.T) {
		s := rows(t, nil)
		q := s.arrive("a,b,c,d,e,f")[0]
		s.rest()
		check(t, "withdraw", s.Withdraw(&q.textQuery), false)
		check(t, "Done", q.done, 1)
	})
}

func TestASplitThatReturnsNonsenseIsRefused(t *testing.T) {
	for want, split := range map[string]func(string, int) []string{
		`backend "": split returned no parts`:                                       func(string, int) []string { return nil },
		`backend "": split returned part 0 with cost 4, more than max_batch_size 3`: func(in string, _ int) []string { return []string{in} },
	} {
		s := rows(t, func(o *options) { o.Split = split })
		q := newOutcome(nil, "a,b,c,d")
		if err := s.Submit(&q.textQuery); err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}
