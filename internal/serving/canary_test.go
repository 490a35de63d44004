package serving_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/shoalserve/shoal/internal/serving"
)

// trial is a registry in a bubble of virtual time, with an endpoint "m" that v1
// serves and v2 is to take over.
type trial struct {
	t *testing.T
	*serving.Registry
}

func newTrial(t *testing.T, v1, v2 *model) *trial {
	t.Helper()
	r := serving.NewRegistry()
	deploy(t, r, "v1", v1)
	deploy(t, r, "v2", v2)
	endpoint(t, r, "m", "v1")
	return &trial{t, r}
}

// answers is a model that answers all with one JSON text, after some time.
func answers(text string, after time.Duration) *model {
	return &model{format: serving.JSON, fn: func(_ context.Context, in []string) ([]string, error) {
		time.Sleep(after)
		out := make([]string, len(in))
		for i := range in {
			out[i] = text
		}
		return out, nil
	}}
}

func good() *model { return answers(`{"p": 0.5}`, time.Millisecond) }

// failing is a model of whose batches one in so many fails.
func failing(oneIn int32) *model {
	var n atomic.Int32
	return &model{fn: func(_ context.Context, in []string) ([]string, error) {
		if n.Add(1)%oneIn == 0 {
			return nil, errors.New("broken")
		}
		return in, nil
	}}
}

func (r *trial) end() {
	if err := r.Close(context.Background()); err != nil {
		r.t.Error(err)
	}
}

// ask asks n queries, ten in each virtual second, and counts those that fail.
func (r *trial) ask(n int) (failed int) {
	for range n {
		if _, err := ask(r.Registry, "m", "q", ""); err != nil {
			failed++
		}
		time.Sleep(100 * time.Millisecond)
	}
	return failed
}

func (r *trial) start(spec serving.CanarySpec) {
	r.t.Helper()
	spec.Backend = "v2"
	if _, err := r.StartCanary("m", spec); err != nil {
		r.t.Fatal(err)
	}
}

func (r *trial) canary() serving.CanaryStatus {
	r.t.Helper()
	e, err := r.EndpointStatus("m")
	if err != nil || e.Canary == nil {
		r.t.Fatalf("%+v, %v", e, err)
	}
	return *e.Canary
}

func (r *trial) want(state serving.CanaryState, reason string, traffic map[string]float64) {
	r.t.Helper()
	if c := r.canary(); c.State != state || !strings.Contains(c.Reason, reason) {
		r.t.Errorf("the canary is %+v, want %s because %q", c, state, reason)
	}
	e, err := r.EndpointStatus("m")
	if err != nil {
		r.t.Fatal(err)
	}
	if diff := cmp.Diff(traffic, e.Traffic); diff != "" {
		r.t.Errorf("traffic (-want +got):\n%s", diff)
	}
}

// quick are steps of ten seconds.
var quick = serving.CanarySpec{Steps: []float64{0.2, 0.5}, StepTime: serving.Duration(10 * time.Second), MinQueries: 5}

var (
	onlyV1 = map[string]float64{"v1": 1}
	onlyV2 = map[string]float64{"v2": 1}
	fifth  = map[string]float64{"v1": 0.8, "v2": 0.2}
)

func TestACanaryThatIsAsGoodTakesOverStepByStep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newTrial(t, good(), good())
		defer r.end()
		spec := quick
		spec.MaxErrorRate, spec.MaxLatencyRatio = 0.01, 2
		r.start(spec)
		r.want(serving.CanaryShifting, "", fifth)
		weights := map[float64]bool{}
		for range 600 {
			if failed := r.ask(1); failed > 0 {
				t.Fatal("a query failed")
			}
			weights[r.canary().Weight] = true
		}
		if !cmp.Equal(weights, map[float64]bool{0.2: true, 0.5: true, 1: true}) {
			t.Errorf("it had weights %v", weights)
		}
		r.want(serving.CanaryPromoted, "all steps", onlyV2)
	})
}

func TestACanaryWithoutQueriesStaysWhereItIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newTrial(t, good(), good())
		defer r.end()
		r.start(quick)
		time.Sleep(time.Hour)
		r.want(serving.CanaryShifting, "", fifth)
	})
}

func TestACanaryWhoseQueriesFailIsTurnedBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newTrial(t, good(), failing(1))
		defer r.end()
		r.start(quick)
		failed := r.ask(600)
		r.want(serving.CanaryRolledBack, "queries failed, and 0 of", onlyV1)
		if failed == 0 || failed > 60 {
			t.Errorf("%d of 600 queries failed", failed)
		}
		if again := r.ask(100); again > 0 {
			t.Errorf("%d queries failed after the rollback", again)
		}
	})
}

func TestACanaryThatFailsAsOftenAsTheOthersIsNotTurnedBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newTrial(t, failing(10), failing(10)) // evenly, so that no chance can look like a difference
		defer r.end()
		r.start(quick)
		r.ask(600)
		r.want(serving.CanaryPromoted, "", onlyV2)
	})
}

func TestACanaryBeyondTheErrorRateIsTurnedBackThoughTheOthersFailToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newTrial(t, failing(1), failing(1))
		defer r.end()
		spec := quick
		spec.MaxErrorRate = 0.05
		r.start(spec)
		r.ask(200)
		r.want(serving.CanaryRolledBack, "more than max_error_rate 0.05", onlyV1)
	})
}

func TestASlowCanaryIsTurnedBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newTrial(t, good(), answers("{}", 5*time.Millisecond))
		defer r.end()
		spec := quick
		spec.MaxLatencyRatio = 2
		r.start(spec)
		r.ask(600)
		r.want(serving.CanaryRolledBack, "times the", onlyV1)
	})
}

func TestACanaryIsComparedBeforeItGetsTraffic(t *testing.T) {
	for name, test := range map[string]struct {
		says    string
		how     serving.Compare
		state   serving.CanaryState
		why     string
		traffic map[string]float64
	}{
		"the same": {`{"p": 0.500001}`, serving.Compare{}, serving.CanaryPromoted, "all steps", onlyV2},
		"another answer": {
			`{"p": 0.6}`, serving.Compare{}, serving.CanaryRolledBack, "differ from the others', such as p: 0.5, and 0.6", onlyV1,
		},
		"what is not looked at": {`{"p": 0.6}`, serving.Compare{Ignore: []string{"p"}}, serving.CanaryPromoted, "all steps", onlyV2},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newTrial(t, good(), answers(test.says, 0))
				defer r.end()
				spec := quick
				spec.Compare, spec.MinCompared = &test.how, 20
				r.start(spec)
				r.want(serving.CanaryComparing, "", onlyV1)
				r.ask(5)
				if c := r.canary(); c.Comparison == nil || c.Comparison.Compared != 5 || c.Canary.Queries != 0 {
					t.Errorf("after 5 queries it is %+v", c)
				}
				r.ask(600)
				r.want(test.state, test.why, test.traffic)
				if e, _ := r.EndpointStatus("m"); len(e.Shadows) > 0 {
					t.Errorf("it is still a shadow: %v", e.Shadows)
				}
			})
		})
	}
}

func TestACanaryIsAbortedOrPromotedByHand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newTrial(t, good(), good())
		defer r.end()
		r.start(quick)
		_, err := r.StartCanary("m", serving.CanarySpec{Backend: "v2"})
		if err == nil {
			t.Error("there are two")
		}
		if _, err := r.AbortCanary("m"); err != nil {
			t.Error(err)
		}
		r.want(serving.CanaryAborted, "asked", onlyV1)
		r.start(quick)
		if _, err := r.PromoteCanary("m"); err != nil {
			t.Error(err)
		}
		r.want(serving.CanaryPromoted, "asked", onlyV2)
		if _, err := r.AbortCanary("m"); err == nil {
			t.Error("one that is over was aborted")
		}
	})
}

func TestWhoChangesTheTrafficEndsTheCanary(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newTrial(t, good(), good())
		defer r.end()
		r.start(quick)
		if err := r.SetTraffic("m", map[string]float64{"v1": 0.9, "v2": 0.1}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Second)
		r.want(serving.CanaryAborted, "somebody else changed", map[string]float64{"v1": 0.9, "v2": 0.1})
	})
}

func TestACanaryDoesNotOverwriteWhatSomebodyElseSet(t *testing.T) {
	set := map[string]float64{"v1": 0.9, "v2": 0.1}
	for state, end := range map[serving.CanaryState]func(*serving.Registry, string) (serving.CanaryStatus, error){
		serving.CanaryAborted: (*serving.Registry).AbortCanary, serving.CanaryPromoted: (*serving.Registry).PromoteCanary,
	} {
		synctest.Test(t, func(t *testing.T) {
			r := newTrial(t, good(), good())
			defer r.end()
			r.start(quick)
			if err := r.SetTraffic("m", set); err != nil {
				t.Fatal(err)
			}
			if _, err := end(r.Registry, "m"); (err == nil) != (state == serving.CanaryAborted) { // before it looked
				t.Errorf("%s: %v", state, err)
			}
			r.want(serving.CanaryAborted, "somebody else changed", set)
		})
	}
}

func TestACanaryThatCannotBeEndedIsNotOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newTrial(t, good(), good())
		r.start(quick)
		r.end() // takes no changes any more
		_, err := r.PromoteCanary("m")
		wantCode(t, err, serving.Draining)
		r.want(serving.CanaryShifting, "", fifth)
	})
}

func TestAPlanThatSaysTheSameLeavesTheCanaryAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newTrial(t, good(), good())
		defer r.end()
		r.start(quick)
		same := map[string]serving.EndpointSpec{"m": {Backend: "v1", Route: "/m"}}
		if _, done := apply(t, r.Registry, serving.Plan{Endpoints: same}); len(done.Endpoints) > 0 {
			t.Errorf("it did %+v", done)
		}
		time.Sleep(5 * time.Second)
		r.want(serving.CanaryShifting, "", fifth)
	})
}

func TestAShadowsAnswersAreComparedAndSampled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newTrial(t, good(), answers(`{"p": 0.75}`, 5*time.Millisecond))
		defer r.end()
		if err := r.CompareShadow("m", "v2", 1, serving.Compare{}); err != nil {
			t.Fatal(err)
		}
		r.ask(20)
		e, err := r.EndpointStatus("m")
		if err != nil {
			t.Fatal(err)
		}
		got := e.Comparisons["v2"]
		if got.Compared != 20 || got.Different != 20 || got.LargestDifference != 0.25 || len(got.Samples) != 8 || got.Samples[0] != "p: 0.5, and 0.75" {
			t.Errorf("compared %+v", got)
		}
		if err := r.Shadow("m", "v2", 0); err != nil {
			t.Error(err)
		}
		wantCode(t, r.CompareShadow("m", "v2", 1, serving.Compare{TopK: -1}), serving.InvalidArgument)
	})
}

func TestPairsThatWaitAreBounded(t *testing.T) {
	r := newRegistry(t)
	release := make(chan struct{})
	deploy(t, r, "v1", good())
	deploy(t, r, "v2", &model{fn: func(_ context.Context, in []string) ([]string, error) { <-release; return in, nil }})
	endpoint(t, r, "m", "v1")
	if err := r.CompareShadow("m", "v2", 1, serving.Compare{}); err != nil {
		t.Fatal(err)
	}
	for range 300 {
		if _, err := ask(r, "m", "q", ""); err != nil {
			t.Fatal(err)
		}
	}
	e, err := r.EndpointStatus("m")
	if err != nil || e.Comparisons["v2"].Dropped != 300-256 {
		t.Errorf("compared %+v, %v", e.Comparisons, err)
	}
	close(release)
	until(t, func() bool {
		e, _ := r.EndpointStatus("m")
		return e.Comparisons["v2"].Compared == 256
	}, "the others to be compared")
}

func TestCanariesThatCannotBeAreRefused(t *testing.T) {
	r := newRegistry(t)
	deploy(t, r, "v1", says(""))
	deploy(t, r, "v2", says(""))
	endpoint(t, r, "m", "v1")
	for i, spec := range []serving.CanarySpec{
		{Backend: "v1"},
		{Backend: "v2", Steps: []float64{0.5, 0.2}},
		{Backend: "v2", Steps: []float64{0}},
		{Backend: "v2", Steps: []float64{1.5}},
		{Backend: "v2", StepTime: -1},
		{Backend: "v2", MinQueries: -1},
		{Backend: "v2", MaxErrorRate: 1},
		{Backend: "v2", MaxLatencyRatio: 0.5},
		{Backend: "v2", MaxDifferent: 0.1},
		{Backend: "v2", Compare: &serving.Compare{Tolerance: -1}},
	} {
		if _, err := r.StartCanary("m", spec); !errors.Is(err, &serving.Error{Code: serving.InvalidArgument}) {
			t.Errorf("%d: %v", i, err)
		}
	}
	_, err := r.StartCanary("m", serving.CanarySpec{Backend: "v3"})
	wantCode(t, err, serving.BackendNotFound)
	_, err = r.StartCanary("n", serving.CanarySpec{Backend: "v2"})
	wantCode(t, err, serving.EndpointNotFound)
	_, err = r.AbortCanary("m")
	wantCode(t, err, serving.InvalidArgument)
}
