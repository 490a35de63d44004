package batch_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/shoalserve/shoal/batch"
)

// calls runs batches of a scene as a model does that fails as a whole whenever a
// guilty query is among its inputs, and tells how many calls it got.
func (s *scene) calls(guilty ...string) (calls []int) {
	for len(s.running) > 0 {
		b := s.running[0]
		s.running = s.running[1:]
		calls = append(calls, len(b.Queries))
		var out []string
		var err error
		for _, in := range b.Inputs() {
			out = append(out, strings.ToUpper(in))
			if slices.Contains(guilty, in) {
				err = fmt.Errorf("%s: %w", in, errModel)
			}
		}
		b.Finish(out, err)
	}
	return calls
}

// names are n different inputs.
func names(n int) (ins []string) {
	for i := range n {
		ins = append(ins, fmt.Sprintf("q%d", i))
	}
	return ins
}

// together has n queries fill one batch, which is about to be computed.
func together(t *testing.T, n int, limits batch.Limits) (*scene, []*outcome) {
	limits.MaxBatchSize, limits.LeaveAtOnce = n, true
	s := newScene(t, options{Name: "m", Limits: limits})
	s.arrive("busy")
	all := s.arrive(names(n)...)
	s.next()
	return s, all
}

// sizes of batches in which each query is the guilty one in turn.
var sizes = []int{1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 15, 16, 17, 24, 31, 32, 33}

func TestOneGuiltyQueryCostsTwoLog2NCallsAndFailsAlone(t *testing.T) {
	for _, n := range sizes {
		for guilty := range n {
			s, all := together(t, n, batch.Limits{})
			calls := s.calls(all[guilty].In)
			if extra, most := len(calls)-1, int(2*math.Log2(float64(n))); extra > most {
				t.Fatalf("guilty is %d of %d: %d extra calls (%v), more than %d", guilty, n, extra, calls, most)
			}
			for i, q := range all {
				if wrong := q.Err != nil; wrong != (i == guilty) || q.done != 1 || !wrong && q.Out != strings.ToUpper(q.In) {
					t.Fatalf("guilty is %d of %d: query %d got %q, %v, %d times", guilty, n, i, q.Out, q.Err, q.done)
				}
			}
			if err := all[guilty].Err; err.Error() != all[guilty].In+": the model failed" {
				t.Fatalf("the guilty one got %v", err)
			}
		}
	}
}

func TestAnyNumberOfGuiltyQueriesIsBounded(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		n := rapid.IntRange(2, 128).Draw(rt, "n")
		k := rapid.OneOf(rapid.IntRange(0, min(n, 4)), rapid.IntRange(0, n)).Draw(rt, "guilty")
		order := rapid.Permutation(names(n)).Draw(rt, "order")
		s, all := together(t, n, batch.Limits{})
		calls := s.calls(order[:k]...)
		if extra, most := len(calls)-1, 8*int(math.Ceil(math.Log2(float64(n)))); extra > most {
			rt.Fatalf("%d guilty of %d: %d extra calls, more than %d", k, n, extra, most)
		}
		hurt := 0
		for _, q := range all {
			switch guilty := slices.Contains(order[:k], q.In); {
			case q.done != 1:
				rt.Fatalf("query %s was answered %d times", q.In, q.done)
			case guilty && q.Err == nil, q.Err == nil && q.Out != strings.ToUpper(q.In):
				rt.Fatalf("query %s got %q, %v", q.In, q.Out, q.Err)
			case !guilty && q.Err != nil:
				hurt++
			}
		}
		if hurt > 0 && k < 3 {
			rt.Fatalf("%d guilty of %d: %d innocent queries failed", k, n, hurt)
		}
	})
}

func TestFourGuiltyQueriesAreFoundUnlessThreeAreProbed(t *testing.T) {
	for _, n := range []int{8, 16, 32, 64} {
		for a := range n { // one in each quarter, and none where the probes look
			s, all := together(t, n, batch.Limits{})
			guilty := []string{}
			for quarter := range 4 {
				guilty = append(guilty, all[quarter*n/4+1+a%(n/4-1)].In)
			}
			calls := s.calls(guilty...)
			for _, q := range all {
				if (q.Err != nil) != slices.Contains(guilty, q.In) {
					t.Fatalf("%v guilty of %d: query %s got %v after %d calls", guilty, n, q.In, q.Err, len(calls))
				}
			}
		}
	}
}

func TestABrokenModelCostsFiveExtraCalls(t *testing.T) {
	for _, n := range []int{8, 32, 1000} {
		s, all := together(t, n, batch.Limits{})
		calls := s.calls(names(n)...)
		check(t, "calls", fmt.Sprint(calls), fmt.Sprint([]int{n, n / 2, n / 2, 1, 1, 1}))
		for _, q := range all {
			check(t, "is the model's error", errors.Is(q.Err, errModel), true)
			check(t, "Done", q.done, 1)
		}
		check(t, "failed", s.Stats().Failed, uint64(n))
	}
}

func TestFailAllFailsABatchAtOnce(t *testing.T) {
	s, all := together(t, 8, batch.Limits{OnError: batch.FailAll})
	check(t, "calls", fmt.Sprint(s.calls("q3")), "[8]")
	for _, q := range all {
		check(t, "error", q.Err.Error(), "q3: the model failed")
	}
	check(t, "isolated", s.Stats().Isolated, 0)
}

func TestItemErrorsCauseNoRetry(t *testing.T) {
	s, all := together(t, 3, batch.Limits{})
	b := s.running[0]
	s.running = nil
	b.Finish([]string{"", "B", "C"}, batch.ItemErrors{errItem, nil, nil})
	check(t, "running", len(s.running), 0)
	check(t, "first", all[0].Err, errItem)
	check(t, "second", all[1].Out, "B")
}

func TestAWrongNumberOfAnswersIsIsolatedAndAloneAnError(t *testing.T) {
	s, all := together(t, 4, batch.Limits{})
	for len(s.running) > 0 { // a model that loses q2
		b := s.running[0]
		s.running = s.running[1:]
		var out []string
		for _, in := range b.Inputs() {
			if in != "q2" {
				out = append(out, strings.ToUpper(in))
			}
		}
		b.Finish(out, nil)
	}
	for i, want := range []string{"Q0", "Q1", "", "Q3"} {
		check(t, all[i].In, all[i].Out, want)
	}
	check(t, "error", fmt.Sprint(all[2].Err), `backend "m" returned 0 answers for a batch of 1`)
}

func TestPartsAreNotMixedWithStrangersAndGoFirst(t *testing.T) {
	s, _ := together(t, 4, batch.Limits{})
	strangers := s.arrive("s0", "s1")
	b := s.running[0]
	s.running = nil
	b.Finish(nil, errModel)
	check(t, "parts", s.rest(), "q0 q1: retry, q2: retry, q3: retry, s0 s1: free")
	check(t, "stranger", strangers[0].Trip.Attempts, 1)
}

func TestTheTripOfARetriedQueryTellsItsAttempts(t *testing.T) {
	s, all := together(t, 4, batch.Limits{})
	s.running[0].Queries[0].In = "q0"
	b := s.running[0]
	s.running = nil
	s.wait(time.Second)
	b.Finish(nil, errModel)
	s.wait(time.Second)
	s.next()
	check(t, "trip", all[0].Trip, batch.Trip{Queued: time.Second, Computed: time.Second, BatchID: 3, BatchSize: 2, Reason: batch.Retry, Attempts: 2})
	s.rest()
	check(t, "attempts", all[3].Trip.Attempts, 2)
}

func TestAQueryThatLeavesBetweenRetriesIsDropped(t *testing.T) {
	s, _ := together(t, 2, batch.Limits{})
	s.calls()
	late := s.arriveWith(s.within(time.Second), "late")
	s.calls()
	check(t, "answered in time", late.Err, nil)

	s = newScene(t, options{Name: "m", Limits: batch.Limits{MaxBatchSize: 4, LeaveAtOnce: true}})
	s.arrive("busy")
	a, b := s.arriveWith(s.within(time.Second), "a"), s.arriveWith(s.within(time.Second), "b")
	c, d := s.arriveWith(nil, "c"), s.arriveWith(s.within(time.Second), "d")
	s.next()
	failed := s.running[0]
	s.running = nil
	failed.Finish(nil, errModel)
	check(t, "waiting", s.Stats().Queued, 2)
	check(t, "withdrawn while it waits", s.Withdraw(&d.textQuery), true)
	check(t, "withdrawn while it runs", s.Withdraw(&a.textQuery), false)
	s.wait(time.Minute)
	failed = s.running[0]
	s.running = nil
	failed.Finish(nil, errModel) // a has left, b is late
	check(t, "rest", s.rest(), "c: retry")
	check(t, "a", a.Err, error(errModel))
	check(t, "b", b.Err, error(errModel))
	check(t, "c", c.Out, "C")
	check(t, "d", d.done, 0)
	check(t, "open", s.Stats().Queued+s.Stats().Running, 0)
}

func TestWhileABatchIsIsolatedNothingIsSentAheadOfItsParts(t *testing.T) {
	s := newScene(t, options{Limits: batch.Limits{MaxBatchSize: 2, LeaveAtOnce: true}})
	<-s.replica.Detach()
	s.replica = s.attachAhead()
	s.arrive("a", "b", "c") // a runs, b and c are sent ahead
	s.arrive("d", "e")
	s.next()
	check(t, "running", len(s.running), 2) // b c, and d e ahead
	b := s.running[0]
	s.running = s.running[1:]
	b.Finish(nil, errModel)
	s.arrive("f", "g")
	check(t, "order", s.rest(), "d e: full, b: retry, c: retry, f g: full")
}

func TestDrainWaitsForParts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := batch.New(batch.Options[string, string]{Limits: batch.Limits{MaxBatchSize: 8}})
		first := make(chan struct{})
		r := b.AttachFunc(1, func(_ context.Context, in []string) ([]string, error) {
			<-first
			time.Sleep(time.Second)
			if slices.Contains(in, "bad") {
				return nil, errModel
			}
			return in, nil
		})
		var callers sync.WaitGroup
		results := make(map[string]error)
		var mu sync.Mutex
		for _, in := range []string{"first", "a", "bad", "c"} {
			callers.Go(func() {
				_, err := b.Do(t.Context(), in)
				mu.Lock()
				results[in] = err
				mu.Unlock()
			})
			synctest.Wait()
		}
		close(first)
		check(t, "drain", b.Drain(t.Context()), nil)
		callers.Wait()
		check(t, "results", fmt.Sprint(results), fmt.Sprint(map[string]error{"first": nil, "a": nil, "bad": errModel, "c": nil}))
		check(t, "stop", r.Stop(t.Context()), nil)
	})
}

func TestADrainWithoutTimeDropsPartsThatWait(t *testing.T) {
	s, all := together(t, 4, batch.Limits{})
	b := s.running[0]
	s.running = nil
	b.Finish(nil, errModel)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := s.Drain(ctx)
	check(t, "drain", err.Error(), `draining backend "m": 4 queries were not answered: context canceled`)
	check(t, "second half", errors.Is(all[3].Err, batch.ErrDraining), true)
	b = s.running[0]
	s.running = nil
	b.Finish(nil, errModel)
	check(t, "first half", all[0].Err, error(errModel))
	check(t, "open", s.Stats().Queued+s.Stats().Running, 0)
}

func TestFailedRunsTeachNoServiceTimes(t *testing.T) {
	taught := &taught{}
	s := newScene(t, options{Limits: batch.Limits{MaxBatchSize: 4}, Departure: taught})
	s.arrive("busy")
	s.arrive(names(4)...)
	s.next()
	check(t, "calls", fmt.Sprint(s.calls("q0")), "[4 2 2 1 1]")
	check(t, "taught", fmt.Sprint(taught.sizes), "[1]")
}

// taught is a departure policy that notes what it is told.
type taught struct {
	stubborn
	sizes []int
}

func (p *taught) Hold(now time.Time, _ batch.Waiting) time.Time { return now }
func (p *taught) Answered(_ time.Time, a batch.Answered)        { p.sizes = append(p.sizes, a.Queries) }

// lose ends the scene's replica with the batch that it has, and starts another.
func (s *scene) lose() {
	s.Helper()
	b := s.running[0]
	s.running = s.running[1:]
	s.replica.Detach()
	b.Lost(errLost)
	s.replica = s.Attach(1, func(b *textBatch) { s.running = append(s.running, b) })
}

func TestAQueryThatWasAloneInALostBatchGetsOneMoreChance(t *testing.T) {
	s := newScene(t, options{Name: "m", Limits: batch.Limits{MaxBatchSize: 4}})
	q := s.arrive("a")[0]
	s.lose()
	check(t, "again", s.next(), "a: retry")
	check(t, "answer", q.Out, "A")
	check(t, "attempts", q.Trip.Attempts, 2)

	q = s.arrive("b")[0]
	s.lose()
	s.lose()
	lost, ok := errors.AsType[*batch.LostError](q.Err)
	if !ok || lost.Replicas != 2 || !errors.Is(lost, errLost) || !strings.Contains(lost.Error(), "2 replicas") {
		t.Errorf("got %v", q.Err)
	}
	check(t, "poison", s.Stats().Poison, 1)
	check(t, "open", s.Stats().Queued+s.Stats().Running, 0)
}

func TestAQueryThatEndsReplicasIsRefusedAndTheOthersAreAnswered(t *testing.T) {
	for _, n := range sizes {
		for guilty := range n {
			s, all := together(t, n, batch.Limits{})
			ended, calls := 0, 0
			for ; len(s.running) > 0; calls++ {
				if slices.Contains(s.running[0].Inputs(), all[guilty].In) {
					s.lose()
					ended++
				} else {
					s.next()
				}
			}
			if most := max(2, 1+int(math.Ceil(math.Log2(float64(n))))); ended > most {
				t.Fatalf("guilty is %d of %d: %d replicas ended, more than %d", guilty, n, ended, most)
			}
			if most := max(1, int(2*math.Log2(float64(n)))); calls-1 > most {
				t.Fatalf("guilty is %d of %d: %d extra calls, more than %d", guilty, n, calls-1, most)
			}
			for i, q := range all {
				_, refused := errors.AsType[*batch.LostError](q.Err)
				if refused != (i == guilty) || !refused && q.Out != strings.ToUpper(q.In) {
					t.Fatalf("guilty is %d of %d: query %d got %q, %v", guilty, n, i, q.Out, q.Err)
				}
			}
		}
	}
}

func TestWhenEverythingEndsReplicasTheRestIsGivenUp(t *testing.T) {
	s, all := together(t, 32, batch.Limits{})
	ended := 0
	for ; len(s.running) > 0; ended++ {
		s.lose()
	}
	check(t, "replicas ended", ended, 6)
	for _, q := range all {
		check(t, "lost", errors.Is(q.Err, errLost), true)
		check(t, "Done", q.done, 1)
	}
}

func TestTheLastReplicaIsSparedWhileAnotherIsAboutToComeBack(t *testing.T) {
	s := newScene(t, options{Limits: batch.Limits{MaxBatchSize: 4, LeaveAtOnce: true}})
	var second []*textBatch
	s.arrive("busy")
	all := s.arrive("a", "b", "c", "d")
	s.next() // a b c d run
	other := s.Attach(1, func(b *textBatch) { second = append(second, b) })
	s.replica.Detach()
	s.running[0].Lost(errLost)
	s.running = nil
	check(t, "first half, on the other", fmt.Sprint(second[0].Inputs()), "[a b]") // it may have been an accident
	other.Detach()
	second[0].Lost(errLost)
	run := func(b *textBatch) { s.running = append(s.running, b) }
	s.Attach(1, run)
	check(t, "running on the only one", len(s.running), 0)
	s.arrive("x")
	check(t, "a stranger is computed meanwhile", s.next(), "x: free")
	s.Attach(1, run)
	check(t, "running", fmt.Sprint(s.running[0].Inputs()), "[c d]")
	check(t, "all", s.rest(), "c d: retry, a: retry, b: retry")
	check(t, "a", all[0].Out, "A")
}

func TestTheLastReplicaIsNotSparedForOneThatNeverComesBack(t *testing.T) {
	s := newScene(t, options{Limits: batch.Limits{MaxBatchSize: 4, LeaveAtOnce: true}})
	var second []*textBatch
	s.arrive("busy")
	s.arrive("a", "b", "c", "d")
	s.next() // a b c d run
	other := s.Attach(1, func(b *textBatch) { second = append(second, b) })
	s.replica.Detach()
	s.running[0].Lost(errLost)
	s.running = nil
	other.Detach()
	second[0].Lost(errLost)
	s.Attach(1, func(b *textBatch) { s.running = append(s.running, b) })
	s.wait(9 * time.Second)
	check(t, "running while another may come back", len(s.running), 0)
	s.wait(2 * time.Second)
	check(t, "all", s.rest(), "c d: retry, a: retry, b: retry")
}

func TestAPartThatAReplicaDidNotBeginGoesBack(t *testing.T) {
	s, all := together(t, 4, batch.Limits{})
	b := s.running[0]
	s.running = nil
	b.Finish(nil, errModel)
	b = s.running[0]
	s.running = nil
	s.replica.Detach()
	b.Return()
	s.Attach(1, func(b *textBatch) { s.running = append(s.running, b) })
	check(t, "order", s.rest(), "q0 q1: retry, q2: retry, q3: retry")
	check(t, "attempts", all[0].Trip.Attempts, 2)
}

func TestABatchThatWasInterruptedFailsAtOnce(t *testing.T) {
	s, all := together(t, 4, batch.Limits{})
	s.replica.Detach()
	s.running[0].Interrupted(errLate)
	s.running = nil
	s.Attach(1, func(b *textBatch) { s.running = append(s.running, b) })
	check(t, "running", len(s.running), 0)
	for _, q := range all {
		check(t, "error", q.Err, errLate)
	}
	check(t, "isolated", s.Stats().Isolated, 0)

	s, all = together(t, 4, batch.Limits{})
	s.running[0].Finish(nil, errModel)
	s.replica.Detach()
	s.running[1].Interrupted(errLate) // a part: the others of its batch go on
	s.running = nil
	s.Attach(1, func(b *textBatch) { s.running = append(s.running, b) })
	check(t, "the other half", s.rest(), "q2 q3: retry")
	check(t, "first", all[0].Err, errLate)
	check(t, "last", all[3].Out, "Q3")
}
