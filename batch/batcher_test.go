package batch_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shoalserve/shoal/batch"
)

type (
	textQuery = batch.Query[string, string]
	textBatch = batch.Batch[string, string]
	options   = batch.Options[string, string]
)

// scene is a batcher of strings in virtual time, with one replica of one slot
// whose batches the test finishes by hand. Answers are upper-case inputs.
type scene struct {
	*testing.T
	*batch.Batcher[string, string]
	clock   *virtualClock
	running []*textBatch
	replica *batch.Replica[string, string]
}

func newScene(t *testing.T, opts options) *scene {
	s := &scene{T: t, clock: newVirtualClock()}
	opts.Clock = s.clock
	s.Batcher = batch.New(opts)
	s.replica = s.Attach(1, func(b *textBatch) { s.running = append(s.running, b) })
	return s
}

// attachAhead attaches a replica that is sent one batch ahead and keeps it.
func (s *scene) attachAhead() *batch.Replica[string, string] {
	return s.AttachReplica(batch.ReplicaOptions[string, string]{
		Slots: 1, Ahead: 1, Run: func(b *textBatch) { s.running = append(s.running, b) }, Recall: func(*textBatch) {},
	})
}

// outcome is a query and what became of it.
type outcome struct {
	textQuery
	done int // how often Done was called
}

func newOutcome(ctx context.Context, in string) *outcome {
	o := &outcome{}
	o.Context, o.In, o.Done = ctx, in, func(*textQuery) { o.done++ }
	return o
}

func (s *scene) arrive(ins ...string) (all []*outcome) {
	s.Helper()
	for _, in := range ins {
		all = append(all, s.arriveWith(nil, in))
	}
	return all
}

func (s *scene) arriveWith(ctx context.Context, in string) *outcome {
	s.Helper()
	o := newOutcome(ctx, in)
	if err := s.Submit(&o.textQuery); err != nil {
		s.Fatalf("submit %q: %v", in, err)
	}
	return o
}

func (s *scene) within(d time.Duration) context.Context {
	return &virtualContext{clock: s.clock, deadline: s.clock.now.Add(d)}
}

func (s *scene) wait(d time.Duration) { s.clock.advance(s.clock.now.Add(d)) }

// next answers the oldest running batch and tells it, such as "a b: free".
func (s *scene) next() string {
	b := s.running[0]
	s.running = s.running[1:]
	var out []string
	for _, in := range b.Inputs() {
		out = append(out, strings.ToUpper(in))
	}
	b.Finish(out, nil)
	return strings.Join(b.Inputs(), " ") + ": " + b.Reason.String()
}

// rest answers batches until none runs, and tells them.
func (s *scene) rest() string {
	var all []string
	for len(s.running) > 0 {
		all = append(all, s.next())
	}
	return strings.Join(all, ", ")
}

func check[T comparable](t testing.TB, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

func length(in string) int { return len(in) }

func firstLetter(in string) string { return in[:1] }

func TestNineQueriesRunAs1And4And4(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sizes []int
		b := batch.New(batch.Options[int, int]{Limits: batch.Limits{MaxBatchSize: 4}})
		r := b.AttachFunc(1, func(_ context.Context, in []int) ([]int, error) {
			sizes = append(sizes, len(in))
			time.Sleep(200 * time.Millisecond)
			return in, nil
		})
		var callers sync.WaitGroup
		call := func(i int) {
			out, err := b.Do(t.Context(), i)
			if err != nil || out != i {
				t.Errorf("query %d: got %d, %v", i, out, err)
			}
		}
		callers.Go(func() { call(0) })
		synctest.Wait() // without it two may arrive in the same instant, and leave together
		for i := range 8 {
			callers.Go(func() { call(i + 1) })
		}
		callers.Wait()
		check(t, "sizes", fmt.Sprint(sizes), "[1 4 4]")
		check(t, "stop", r.Stop(t.Context()), nil)
	})
}

func TestABatchSaysWhyItLeft(t *testing.T) {
	const hold = 12 * time.Millisecond
	held := options{Limits: batch.Limits{MaxBatchSize: 4, BatchWaitTimeout: hold}}
	atOnce := options{Limits: batch.Limits{MaxBatchSize: 4}}
	byKey, byCost := atOnce, atOnce
	byKey.Key = firstLetter
	byCost.Cost = length

	tests := []struct {
		name string
		opts options
		play func(*scene) // the batch "busy", when it arrives first, keeps the replica busy
		want string
	}{
		{"free when a replica takes all that waits", atOnce, func(s *scene) {
			s.arrive("busy", "a", "b")
		}, "busy: free, a b: free"},
		{"full at the maximum", atOnce, func(s *scene) {
			s.arrive("busy", "a", "b", "c", "d", "e")
		}, "busy: free, a b c d: full, e: free"},
		{"key when queries with other keys stay behind", byKey, func(s *scene) {
			s.arrive("busy", "a1", "b1", "a2")
		}, "busy: free, a1 a2: key, b1: free"},
		{"cost when the next query does not fit", byCost, func(s *scene) {
			s.arrive("busy", "aa", "bbb", "c", "d")
		}, "busy: full, aa: cost, bbb c: full, d: free"},
		{"timeout when the hold ends", held, func(s *scene) {
			s.arrive("a", "b")
			s.wait(hold)
		}, "a b: timeout"},
		{"nothing leaves before the hold ends", held, func(s *scene) {
			s.arrive("a", "b")
			s.wait(hold - 1)
		}, ""},
		{"full when the maximum is reached during the hold", held, func(s *scene) {
			s.arrive("a", "b", "c")
			s.wait(hold / 2)
			s.arrive("d")
		}, "a b c d: full"},
		{"full for a group that arrives behind one that is held", options{Limits: held.Limits, Key: firstLetter}, func(s *scene) {
			s.arrive("a", "b1", "b2", "b3", "b4")
			s.wait(hold)
		}, "b1 b2 b3 b4: full, a: timeout"},
		{"deadline when half of a query's time is over", held, func(s *scene) {
			s.arrive("a")
			s.arriveWith(s.within(hold/2), "b")
			s.wait(hold / 4)
		}, "a b: deadline"},
		{"timeout when the query with the deadline left earlier", held, func(s *scene) {
			s.arriveWith(s.within(hold/2), "a")
			s.arrive("b", "c", "d")
			s.arrive("e")
			s.wait(1)
			check(s, "first", s.next(), "a b c d: full")
			s.wait(hold - 2)
			check(s, "running before the hold ended", len(s.running), 0)
			s.wait(1)
		}, "e: timeout"},
		{"timeout when the query with the deadline was withdrawn", held, func(s *scene) {
			s.arrive("a")
			q := s.arriveWith(s.within(hold/2), "b")
			s.Withdraw(&q.textQuery)
			s.wait(hold)
		}, "a: timeout"},
		{"deadline for a query that came before holds were turned on", atOnce, func(s *scene) {
			s.arrive("busy")
			s.arriveWith(s.within(hold), "a")
			s.Update(held.Limits)
			check(s, "first", s.next(), "busy: free")
			s.wait(hold / 2)
		}, "a: deadline"},
		{"timeout when the hold is shortened", held, func(s *scene) {
			s.arrive("a")
			s.wait(hold / 4)
			s.Update(batch.Limits{MaxBatchSize: 4, BatchWaitTimeout: hold / 2})
			s.wait(hold / 4)
		}, "a: timeout"},
		{"free when holds are turned off", held, func(s *scene) {
			s.arrive("a")
			s.Update(atOnce.Limits)
		}, "a: free"},
		{"full when the maximum is lowered to what waits", held, func(s *scene) {
			s.arrive("a", "b")
			s.Update(batch.Limits{MaxBatchSize: 2, BatchWaitTimeout: hold})
		}, "a b: full"},
		{"drain when closing ends the hold", held, func(s *scene) {
			s.arrive("a")
			ctx, cancel := context.WithCancel(s.Context())
			cancel()
			_ = s.Drain(ctx)
			check(s, "timers left", len(s.clock.timers), 0)
		}, "a: drain"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := newScene(t, test.opts)
			test.play(s)
			check(t, "batches", s.rest(), test.want)
		})
	}
}

func TestADeadQueryDoesNotEndAHold(t *testing.T) {
	s := newScene(t, options{Limits: batch.Limits{MaxBatchSize: 3, BatchWaitTimeout: time.Second}})
	ctx, cancel := context.WithCancel(t.Context())
	dead := s.arriveWith(ctx, "dead")
	cancel()
	s.wait(time.Millisecond)
	s.arrive("a", "b") // with the dead one the batch would be full
	check(t, "running", len(s.running), 0)
	check(t, "dead query's Done", dead.done, 1)
	s.wait(time.Second)
	check(t, "batches", s.rest(), "a b: timeout")
}

func TestADeadQueryDoesNotBringItsGroupForward(t *testing.T) {
	s := newScene(t, options{Key: firstLetter})
	ctx, cancel := context.WithCancel(t.Context())
	s.arrive("busy")
	s.arriveWith(ctx, "a1")
	s.arrive("b1", "a2")
	cancel()
	check(t, "batches", s.rest(), "busy: free, b1: key, a2: free")
}

func TestBatchesNeverMixOriginsOrKeys(t *testing.T) {
	s := newScene(t, options{Limits: batch.Limits{MaxBatchSize: 8}, Key: firstLetter})
	s.arrive("busy")
	for i := range 16 {
		q := newOutcome(nil, fmt.Sprint([]string{"a", "b"}[i/2%2], i))
		q.Origin = batch.Origin(i % 2)
		if err := s.Submit(&q.textQuery); err != nil {
			t.Fatal(err)
		}
	}
	check(t, "batches", s.rest(), "busy: free, a0 a4 a8 a12: key, a1 a5 a9 a13: key, b2 b6 b10 b14: key, b3 b7 b11 b15: free")
}

func TestARareKeyIsNotStarvedByAFlood(t *testing.T) {
	s := newScene(t, options{Limits: batch.Limits{MaxBatchSize: 2}, Key: firstLetter})
	s.arrive("f", "f", "f", "rare", "f", "f", "f", "f")
	for batches := 1; ; batches++ {
		s.arrive("f", "f", "f", "f") // twice what leaves
		if strings.HasPrefix(s.next(), "rare") {
			check(t, "batches until the rare query left", batches, 3)
			return
		}
	}
}

func TestSubmitRefusesWhatTheQueueCannotHold(t *testing.T) {
	limits := batch.Limits{MaxBatchSize: 4, MaxQueued: 2, MaxQueuedBytes: 10}
	size := func(in string) int64 { return int64(len(in)) }
	cost := func(in string) int { return strings.Count(in, "#") }
	tests := []struct {
		name  string
		waits []string
		in    string
		want  string // part of the error; empty if it is admitted
	}{
		{"more queries than max_queued", []string{"a", "b"}, "c", `backend "model": queue is full: 2 queries wait, max_queued is 2`},
		{"more bytes than max_queued_bytes", []string{"123456"}, "12345", `backend "model": queue is full: 6 bytes wait and the query has 5, max_queued_bytes is 10`},
		{"as many bytes as max_queued_bytes", []string{"12345"}, "12345", ""},
		{"a query of any number of bytes, when nothing else waits", nil, "123456789012345", ""},
		{"a query that costs more than a batch", nil, "#####", `query costs 5, but max_batch_size of backend "model" is 4 and it cannot be split`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := newScene(t, options{Limits: limits, Name: "model", Size: size, Cost: cost})
			s.arrive("busy")
			s.arrive(test.waits...)
			q := newOutcome(nil, test.in)
			err := s.Submit(&q.textQuery)
			if test.want == "" {
				check(t, "error", err, nil)
				s.rest()
				check(t, "answer", q.Out, strings.ToUpper(test.in))
				return
			}
			if err == nil || err.Error() != test.want {
				t.Errorf("got %v, want %s", err, test.want)
			}
			_, tooLarge := errors.AsType[*batch.TooLargeError](err)
			check(t, "is ErrQueueFull or TooLarge", errors.Is(err, batch.ErrQueueFull) != tooLarge, true)
			check(t, "refused", s.Stats().Refused, 1)
			s.rest()
			check(t, "Done of a refused query", q.done, 0)
		})
	}
}

func TestAPanicInACallbackHurtsOnlyItsOwnQuery(t *testing.T) {
	boom := errors.New("boom")
	bad := func(in string) bool { return strings.HasPrefix(in, "bad") }
	tests := []struct {
		where   string
		change  func(*options)
		refused bool // by Submit, rather than answered with the error
	}{
		{"key", func(o *options) {
			o.Key = func(in string) string {
				if bad(in) {
					panic(boom)
				}
				return ""
			}
		}, true},
		{"cost", func(o *options) {
			cost := o.Cost
			o.Cost = func(in string) int {
				if bad(in) {
					panic(boom)
				}
				return cost(in)
			}
		}, true},
		{"size", func(o *options) {
			o.Size = func(in string) int64 {
				if bad(in) {
					panic(boom)
				}
				return 0
			}
		}, true},
		{"split", func(o *options) {
			split := o.Split
			o.Split = func(in string, most int) []string {
				if bad(in) {
					panic(boom)
				}
				return split(in, most)
			}
		}, true},
		{"join", func(o *options) {
			join := o.Join
			o.Join = func(outs []string) (string, error) {
				if bad(strings.ToLower(outs[0])) {
					panic(boom)
				}
				return join(outs)
			}
		}, false},
	}
	for _, test := range tests {
		t.Run(test.where, func(t *testing.T) {
			s := rows(t, test.change)
			before := s.arrive("a,b,c,d")[0]
			q := newOutcome(nil, "bad,e,f,g")
			err := s.Submit(&q.textQuery)
			after := s.arrive("h,i,j,k")[0]
			s.rest()
			check(t, "refused", err != nil, test.refused)
			if !test.refused {
				err = q.Err
			}
			p, ok := errors.AsType[*batch.PanicError](err)
			if !ok || p.Where != test.where || !errors.Is(err, boom) || len(p.Stack) == 0 {
				t.Errorf("got %#v, want a PanicError of %s", err, test.where)
			}
			check(t, "answer before", before.Out, "A,B,C,D")
			check(t, "answer after", after.Out, "H,I,J,K")
		})
	}
}

func TestAQueryWhoseContextEndsNeverRuns(t *testing.T) {
	gone := errors.New("gone")
	t.Run("before it is submitted", func(t *testing.T) {
		s := newScene(t, options{Name: "m"})
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(gone)
		q := newOutcome(ctx, "a")
		err := s.Submit(&q.textQuery)
		check(t, "has the cause", errors.Is(err, gone), true)
		check(t, "error", err.Error(), `backend "m": the query was dropped before it ran: gone`)
		check(t, "refused", s.Stats().Refused, 1)
		check(t, "Done", q.done, 0)
	})
	t.Run("while it waits", func(t *testing.T) {
		s := newScene(t, options{})
		ctx, cancel := context.WithCancelCause(t.Context())
		s.arrive("busy")
		q := s.arriveWith(ctx, "a")
		s.arrive("b")
		cancel(gone)
		check(t, "batches", s.rest(), "busy: free, b: free")
		check(t, "has the cause", errors.Is(q.Err, gone), true)
		check(t, "Done", q.done, 1)
		check(t, "dropped", s.Stats().Dropped, 1)
		check(t, "trip", q.Trip, batch.Trip{})
	})
	t.Run("and Do returns while others wait on", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := batch.New(options{})
			ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, gone)
			defer cancel()
			_, err := b.Do(ctx, "a")
			check(t, "has the cause", errors.Is(err, gone), true)
			check(t, "queued", b.Stats().Queued, 0)
			check(t, "dropped", b.Stats().Dropped, 1)
		})
	})
}

func TestDoReturnsWhenItsContextEndsWhileTheModelRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := batch.New(options{})
		r := b.AttachFunc(1, func(ctx context.Context, in []string) ([]string, error) {
			time.Sleep(time.Minute)
			return model(ctx, in)
		})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		_, err := b.Do(ctx, "a")
		check(t, "error", err, context.DeadlineExceeded)
		check(t, "took", time.Since(began), time.Second)
		out, err := b.Do(t.Context(), "b")
		check(t, "next answer", out, "B")
		check(t, "next error", err, nil)
		check(t, "answered", b.Stats().Answered, 2)
		check(t, "stop", r.Stop(t.Context()), nil)
	})
}

func TestDrainAnswersAllThatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := batch.New(options{Limits: batch.Limits{MaxBatchSize: 2, BatchWaitTimeout: time.Hour}})
		r := b.AttachFunc(1, func(ctx context.Context, in []string) ([]string, error) {
			time.Sleep(time.Second)
			return model(ctx, in)
		})
		answered := 0
		for _, in := range []string{"a", "b", "c"} {
			err := b.Submit(&textQuery{In: in, Done: func(q *textQuery) {
				check(t, "answer", q.Out, strings.ToUpper(in))
				answered++
			}})
			check(t, "submit", err, nil)
		}
		began := time.Now()
		check(t, "drain", b.Drain(t.Context()), nil)
		check(t, "took", time.Since(began), 2*time.Second)
		check(t, "answered", answered, 3)
		check(t, "submit afterwards", b.Submit(&textQuery{}), batch.ErrDraining)
		check(t, "drain again", b.Drain(t.Context()), nil)
		check(t, "stop", r.Stop(t.Context()), nil)
	})
}

func TestDrainReturnsOnlyWhenEveryAnswerIsOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := batch.New(options{})
		var running []*textBatch
		drained := false
		for _, in := range []string{"first", "second"} {
			err := b.Submit(&textQuery{In: in, Origin: batch.Origin(len(in) % 2), Done: func(q *textQuery) {
				if q.In == "first" {
					running[1].Finish([]string{""}, nil)
				}
				synctest.Wait()
				check(t, "drained within Done of "+q.In, drained, false)
			}})
			check(t, "submit", err, nil)
		}
		go func() {
			check(t, "drain", b.Drain(t.Context()), nil)
			drained = true
		}()
		synctest.Wait()
		check(t, "drained while all wait", drained, false)
		b.Attach(2, func(b *textBatch) { running = append(running, b) })
		synctest.Wait()
		check(t, "drained while all run", drained, false)
		running[0].Finish([]string{""}, nil)
		synctest.Wait()
		check(t, "drained", drained, true)
	})
}

func TestDrainThatRunsOutOfTimeFailsWhatStillWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := batch.New(options{Name: "m"})
		r := b.AttachFunc(1, func(ctx context.Context, in []string) ([]string, error) {
			time.Sleep(time.Minute)
			return model(ctx, in)
		})
		outcomes := map[string]error{}
		for _, in := range []string{"runs", "waits", "waits too"} {
			err := b.Submit(&textQuery{In: in, Done: func(q *textQuery) { outcomes[in] = q.Err }})
			check(t, "submit", err, nil)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		err := b.Drain(ctx)
		check(t, "is DeadlineExceeded", errors.Is(err, context.DeadlineExceeded), true)
		check(t, "error", err.Error(), `draining backend "m": 3 queries were not answered: context deadline exceeded`)
		check(t, "outcomes", fmt.Sprint(outcomes), fmt.Sprint(map[string]error{"waits": batch.ErrDraining, "waits too": batch.ErrDraining}))
		check(t, "drain again", b.Drain(t.Context()), nil)
		check(t, "outcomes at the end", len(outcomes), 3)
		check(t, "stop", r.Stop(t.Context()), nil)
	})
}

func TestTheReplicaWithMostRoomGetsTheBatch(t *testing.T) {
	b := batch.New(options{})
	got := ""
	b.Attach(1, func(*textBatch) { got += "small " })
	b.Attach(3, func(*textBatch) { got += "large " })
	for range 5 {
		check(t, "submit", b.Submit(&textQuery{}), nil)
	}
	check(t, "replicas", got, "large large small large ")
	check(t, "queued", b.Stats().Queued, 1)
}

func TestADoneMaySubmitItsQueryAgain(t *testing.T) {
	b := batch.New(options{})
	r := b.AttachFunc(1, model)
	rounds := make(chan int, 1)
	n := 0
	q := &textQuery{In: "a"}
	q.Done = func(q *textQuery) {
		if n++; n == 100 {
			rounds <- n
		} else if err := b.Submit(q); err != nil {
			t.Error(err)
		}
	}
	check(t, "submit", b.Submit(q), nil)
	check(t, "rounds", <-rounds, 100)
	check(t, "stop", r.Stop(t.Context()), nil)
}

func TestOnBatchSeesEachBatchBeforeItsAnswersGoOut(t *testing.T) {
	var seen []string
	s := newScene(t, options{OnBatch: func(b *textBatch) {
		seen = append(seen, fmt.Sprintf("%d %v %v %v %s", b.ID, b.Inputs(), b.Reason, b.Computed, b.Queries[0].Out))
	}})
	q := s.arrive("a")[0]
	q.Done = func(*textQuery) { seen = append(seen, "answer") }
	s.arrive("b", "c")
	s.wait(time.Second)
	s.rest()
	check(t, "seen", fmt.Sprint(seen), "[1 [a] free 1s A answer 2 [b c] free 0s B]")
}

func TestReasonsAndOriginsHaveNames(t *testing.T) {
	check(t, "reasons", fmt.Sprint(batch.Reasons()), "[free full timeout deadline key cost drain hold slo retry]")
	check(t, "origins", fmt.Sprint(batch.API, batch.Web), "api web")
}
