package batch_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/shoalserve/shoal/batch"
)

// ask submits queries of a caller and a priority; each input is a letter.
func (s *scene) ask(caller string, priority int, ins string) (all []*outcome) {
	s.Helper()
	for _, in := range strings.Split(ins, "") {
		o := newOutcome(nil, in)
		o.Caller, o.Priority = caller, priority
		if err := s.Submit(&o.textQuery); err != nil {
			s.Fatalf("submit %q of %q: %v", in, caller, err)
		}
		all = append(all, o)
	}
	return all
}

// refused submits a query that must be refused for overload.
func (s *scene) refused(caller string, priority int, deadline time.Time) *batch.OverloadError {
	s.Helper()
	o := newOutcome(nil, "!")
	o.Caller, o.Priority, o.Deadline = caller, priority, deadline
	err := s.Submit(&o.textQuery)
	overload, ok := errors.AsType[*batch.OverloadError](err)
	if !ok || !errors.Is(err, batch.ErrQueueFull) {
		s.Fatalf("got %v, want a refusal", err)
	}
	return overload
}

func TestCallersShareBatchesByTheirWeights(t *testing.T) {
	for name, c := range map[string]struct {
		limits batch.Limits
		asks   []string // CALLER:letters, in order of arrival
		want   string
	}{
		"one who floods leaves room for one who does not": {
			batch.Limits{}, []string{"flood:abcdefghij", "other:xyz"}, "a x b y: full, c z d e: full, f g h i: full, j: free",
		},
		"one without a name is one caller": {
			batch.Limits{}, []string{":abcdefgh", "other:xyz"}, "x a y b: full, z c d e: full, f g h: free", // which had the first one already
		},
		"what others leave is anyone's": {
			batch.Limits{}, []string{"flood:abcdefgh"}, "a b c d: full, e f g h: full",
		},
		"a weight of three": {
			batch.Limits{CallerWeights: map[string]float64{"gold": 3}}, []string{"other:abcdef", "gold:stuvwx"},
			"a s t u: full, b v w x: full, c d e f: full",
		},
		"a weight of all others": {
			batch.Limits{CallerWeights: map[string]float64{"*": 3, "least": 1}}, []string{"least:abc", "other:stuvw"},
			"a s t u: full, b v w c: full",
		},
		"one who was idle does not catch up": {
			batch.Limits{}, []string{"a:abcdefgh", "late:xyzw"}, "a x b y: full, c z d w: full, e f g h: full",
		},
		"apart": {
			batch.Limits{IsolateCallers: true}, []string{"a:abcde", "b:xyz"}, "a b c d: full, x y z: key, e: free",
		},
	} {
		t.Run(name, func(t *testing.T) {
			c.limits.MaxBatchSize, c.limits.LeaveAtOnce = 4, true
			s := newScene(t, options{Limits: c.limits})
			s.arrive("first")
			for _, ask := range c.asks {
				caller, ins, _ := strings.Cut(ask, ":")
				s.ask(caller, 0, ins)
			}
			s.next()
			check(t, "batches", s.rest(), c.want)
		})
	}
}

func TestAHigherPriorityLeavesFirstAndFreeSeatsAreForTheRest(t *testing.T) {
	s := newScene(t, options{Limits: batch.Limits{MaxBatchSize: 4, LeaveAtOnce: true}})
	s.arrive("first")
	s.ask("", -2, "abc")
	s.ask("", 0, "mn")
	s.ask("", 3, "xyz")
	s.next()
	check(t, "batches", s.rest(), "x y z m: full, n a b c: full")
}

func TestNoPriorityStarves(t *testing.T) {
	s := newScene(t, options{Limits: batch.Limits{MaxBatchSize: 2, LeaveAtOnce: true}})
	s.arrive("first")
	s.ask("", -3, "abc")
	var low []int
	for i := range 60 {
		s.ask("", 3, "xx") // as many as leave
		if batch := s.next(); strings.ContainsAny(batch, "abc") {
			low = append(low, i)
		}
	}
	// The first batch was there before; then 15 pass the oldest by, and one begins with it.
	check(t, "batches with one of the low priority", fmt.Sprint(low), "[16 32]")
	s.rest()
}

func TestAFullQueueBelongsToAll(t *testing.T) {
	s := newScene(t, options{Limits: batch.Limits{MaxBatchSize: 4, MaxQueued: 6, LeaveAtOnce: true}})
	s.arrive("first")
	flood := s.ask("flood", 0, "abcdef")
	check(t, "a flood in a queue of its own", s.refused("flood", 0, time.Time{}).Reason, batch.QueueFull)
	others := s.ask("other", 0, "xyz")
	check(t, "more than half", s.refused("other", 0, time.Time{}).Reason, batch.QueueFull)
	for i, o := range flood {
		overload, evicted := errors.AsType[*batch.OverloadError](o.Err)
		if evicted != (i >= 3) || evicted && overload.Reason != batch.Evicted || o.done != map[bool]int{true: 1}[evicted] {
			t.Errorf("query %d of the flood ended with %v, told %d times", i, o.Err, o.done)
		}
	}
	urgent := s.ask("flood", 1, "!") // takes the place of the newest of those who have most
	check(t, "a lower priority in a full queue", s.refused("third", -1, time.Time{}).Reason, batch.QueueFull)
	if others[2].Err == nil && flood[2].Err == nil {
		t.Error("nobody made room for a higher priority")
	}
	s.rest()
	check(t, "error of the urgent one", urgent[0].Err, nil)
	stats := s.Stats()
	check(t, "evicted", stats.Evicted, 4)
	check(t, "refused as full", stats.Refusals[batch.QueueFull], 3)
}

func TestALargeQueryIsLetInForManySmallOnesOrForNone(t *testing.T) {
	s := newScene(t, options{Limits: batch.Limits{MaxBatchSize: 4, MaxQueuedBytes: 6, LeaveAtOnce: true}, Size: func(in string) int64 { return int64(len(in)) }})
	s.arrive("first")
	flood := s.ask("flood", 0, "abcdef")
	o := newOutcome(nil, "xxxxxxx") // more than there is
	o.Caller = "other"
	if err := s.Submit(&o.textQuery); !errors.Is(err, batch.ErrQueueFull) {
		t.Errorf("got %v", err)
	}
	check(t, "evicted for nothing", s.Stats().Evicted, 0)
	o.In = "xxx"
	if err := s.Submit(&o.textQuery); err != nil {
		t.Error(err)
	}
	check(t, "evicted", s.Stats().Evicted, 3)
	s.rest()
	check(t, "the oldest of the flood", flood[0].Err, nil)
	check(t, "the large one", o.Out, "XXX")
}

// newBusy is a scene in which a batch of 16 takes 18 ms, one runs since now, and the
// given number waits.
func newBusy(t *testing.T, l batch.Limits, waiting int) *scene {
	l.LeaveAtOnce = true
	s := newTaught(t, l)
	s.arrive("x")
	s.arrive(strings.Split(strings.Repeat("x", waiting), "")...)
	return s
}

func (s *scene) in(d time.Duration) time.Time { return s.clock.now.Add(d) }

func TestAQueryThatCannotBeAnsweredInTimeIsRefusedAtOnce(t *testing.T) {
	// The running batch takes 3 ms, three more 18 ms each.
	s := newBusy(t, batch.Limits{}, 48)
	refusal := s.refused("", 0, s.in(30*time.Millisecond))
	check(t, "reason", refusal.Reason, batch.TooLate)
	if after := refusal.RetryAfter; after < 40*time.Millisecond || after > 60*time.Millisecond {
		t.Errorf("retry after %v; the answer would come after about 75 ms", after)
	}
	if !strings.Contains(refusal.Error(), "has 30ms left") {
		t.Error(refusal)
	}
	late := newOutcome(s.within(30*time.Millisecond), "!")
	if err := s.Submit(&late.textQuery); !errors.Is(err, batch.ErrQueueFull) {
		t.Errorf("with the deadline in its context: %v", err)
	}
	for name, o := range map[string]*outcome{"with enough time": newOutcome(s.within(100*time.Millisecond), "y"), "without a deadline": newOutcome(nil, "y")} {
		if err := s.Submit(&o.textQuery); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	urgent := newOutcome(s.within(30*time.Millisecond), "z")
	urgent.Priority = 1
	if err := s.Submit(&urgent.textQuery); err != nil {
		t.Errorf("with a higher priority: %v", err)
	}
	other := newOutcome(s.within(45*time.Millisecond), "z")
	other.Caller = "other"
	if err := s.Submit(&other.textQuery); err != nil {
		t.Errorf("of a caller with nothing in the queue: %v", err)
	}
	l := s.Limits()
	l.ComputeLate = true
	s.Update(l)
	if err := s.Submit(&newOutcome(s.within(30*time.Millisecond), "!").textQuery); err != nil {
		t.Errorf("with compute_late: %v", err)
	}
	check(t, "refused", s.Stats().Refusals[batch.TooLate], 2)
	s.rest()
}

func TestWhatIsComputedAgainCountsForWhoArrives(t *testing.T) {
	s := newBusy(t, batch.Limits{}, 8)
	s.next()                                                                        // 8 run
	in := func() *outcome { return newOutcome(s.within(15*time.Millisecond), "y") } // 10 ms, and 3 ms for itself
	if err := s.Submit(&in().textQuery); err != nil {
		t.Errorf("before the batch failed: %v", err)
	}
	b := s.running[0]
	s.running = nil
	b.Finish(nil, errModel) // two halves of 6 ms each
	if err := s.Submit(&in().textQuery); !errors.Is(err, batch.ErrQueueFull) {
		t.Errorf("while another half waits, of which the parts may fail: %v", err)
	}
	s.rest()
}

func TestAFreeReplicaTakesWhateverComes(t *testing.T) {
	s := newTaught(t, batch.Limits{LeaveAtOnce: true})
	o := s.arriveWith(s.within(time.Nanosecond), "x") // nothing takes less than 3 ms
	check(t, "running", len(s.running), 1)
	s.rest()
	check(t, "its error", o.Err, nil)
}

func TestWhatCannotBeInTimeAnyMoreMakesRoomForWhatCan(t *testing.T) {
	s := newBusy(t, batch.Limits{}, 0)
	doomed := s.arriveWith(s.within(25*time.Millisecond), "d")
	s.arrive("a", "b")
	s.wait(24500 * time.Microsecond) // the running batch is late
	s.next()
	check(t, "told", doomed.done, 1)
	if !errors.Is(doomed.Err, context.DeadlineExceeded) {
		t.Errorf("its error is %v", doomed.Err)
	}
	check(t, "batches", s.rest(), "a b: free")
	check(t, "late", s.Stats().Late, 1)
}

func TestWhereNobodyCanBeInTimeTheBatchGoesAsItIs(t *testing.T) {
	s := newBusy(t, batch.Limits{}, 0)
	s.arriveWith(s.within(25*time.Millisecond), "d")
	s.wait(24500 * time.Microsecond)
	s.next()
	check(t, "batches", s.rest(), "d: free")
	check(t, "late", s.Stats().Late, 0)
}

// A model that was slow must not keep everybody out when it is fast again.
func TestLearnedTimesThatAreWrongCorrectThemselves(t *testing.T) {
	s := newScene(t, options{Limits: batch.Limits{MaxBatchSize: 4, LeaveAtOnce: true}})
	for range 8 {
		s.arrive("x")
		s.wait(10 * time.Second)
		s.next()
	}
	refused := 0
	for range 300 {
		for range 4 {
			if s.Submit(&newOutcome(s.within(time.Second), "x").textQuery) != nil {
				refused++
			}
		}
		s.wait(5 * time.Millisecond)
		s.next()
	}
	before := refused
	for range 100 {
		for range 4 {
			if s.Submit(&newOutcome(s.within(time.Second), "x").textQuery) != nil {
				refused++
			}
		}
		s.wait(5 * time.Millisecond)
		s.next()
	}
	if before == 0 || refused != before {
		t.Errorf("%d were refused while it was learned, %d after", before, refused-before)
	}
	s.rest()
}

func TestAQueueThatDoesNotGoAwayIsKeptShort(t *testing.T) {
	limits := batch.Limits{QueueTimeTarget: 20 * time.Millisecond}
	s := newBusy(t, limits, 400)
	s.wait(90 * time.Millisecond)
	s.arrive("a") // a burst may be longer than the target
	s.wait(50 * time.Millisecond)
	s.arrive("b") // the first that finds the queue too old
	s.wait(110 * time.Millisecond)
	refusal := s.refused("", 0, time.Time{})
	check(t, "reason", refusal.Reason, batch.QueueTime)
	if refusal.RetryAfter < 300*time.Millisecond { // 400 take 25 batches of 18 ms
		t.Errorf("retry after %v", refusal.RetryAfter)
	}
	s.ask("", 1, "u") // has nothing before it
	for len(s.running) > 0 && s.Stats().Queued > 16 {
		s.wait(18 * time.Millisecond)
		s.next()
	}
	s.arrive("c") // short enough again
	s.rest()
}

func TestRetryAfterIsWhenTheQueueIsEmpty(t *testing.T) {
	s := newBusy(t, batch.Limits{MaxQueued: 160}, 160)
	if after := s.refused("", 0, time.Time{}).RetryAfter; after < 150*time.Millisecond || after > 200*time.Millisecond {
		t.Errorf("retry after %v; ten batches of 18 ms wait", after)
	}
	unlearned := newScene(t, options{Limits: batch.Limits{MaxQueued: 1}})
	unlearned.arrive("a", "b")
	check(t, "of a batcher that has learned nothing", unlearned.refused("", 0, time.Time{}).RetryAfter, 0)
	unlearned.rest()
	s.rest()
}
