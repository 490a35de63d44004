package serving_test

import (
	"maps"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/shoalserve/shoal/internal/serving"
)

// file is a registry in a bubble of virtual time of which everything is declared.
type file struct {
	trial
	placed map[string]serving.Backend
}

func newFile(t *testing.T) *file {
	t.Helper()
	return &file{trial: trial{t, serving.NewRegistry()}}
}

// apply declares that v1 has the traffic of "m" and a canary is to take it over; nil:
// none. Backends in anew, or that are not there yet, are started.
func (f *file) apply(canary *serving.CanarySpec, traffic map[string]float64, anew map[string]*model) {
	f.t.Helper()
	f.applySpec(serving.EndpointSpec{Traffic: traffic, Canary: canary}, anew)
}

// applySpec declares what "m" is.
func (f *file) applySpec(spec serving.EndpointSpec, anew map[string]*model) {
	f.t.Helper()
	p := plan(anew, map[string]serving.EndpointSpec{"m": spec})
	for name, b := range f.placed {
		if _, ok := anew[name]; !ok {
			p.Backends[name] = serving.BackendPlan{Keep: b, Config: b.Config()}
		}
	}
	f.placed, _ = apply(f.t, f.Registry, p)
}

// declared is a canary "v2" with quick steps.
func declared() *serving.CanarySpec {
	spec := quick
	spec.Backend = "v2"
	return &spec
}

func TestADeclaredCanaryThatRunsIsLeftAloneByAReloadThatSaysTheSame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFile(t)
		defer f.end()
		f.apply(declared(), onlyV1, map[string]*model{"v1": good(), "v2": good()})
		f.ask(20)
		f.want(serving.CanaryShifting, "", fifth)
		before := f.canary().Canary.Queries
		f.apply(declared(), onlyV1, nil)
		f.want(serving.CanaryShifting, "", fifth)
		if after := f.canary().Canary.Queries; after != before {
			t.Errorf("it has %d answers, and had %d", after, before)
		}
		f.ask(400)
		f.want(serving.CanaryPromoted, "all steps", onlyV2)
		f.apply(declared(), onlyV1, nil)
		f.want(serving.CanaryPromoted, "all steps", onlyV2)
		f.apply(declared(), onlyV1, map[string]*model{"v2": good()}) // its next version has the traffic at once
		f.want(serving.CanaryPromoted, "all steps", onlyV2)
	})
}

func TestADeclaredCanaryThatWasTurnedBackIsTriedAgainOnlyWhenItChanges(t *testing.T) {
	for name, change := range map[string]func(f *file){
		"its backend": func(f *file) { f.apply(declared(), onlyV1, map[string]*model{"v2": good()}) },
		"its spec": func(f *file) {
			spec := declared()
			spec.MinQueries = 6
			f.apply(spec, onlyV1, nil)
		},
		"the traffic": func(f *file) {
			f.apply(declared(), map[string]float64{"v1": 0.5, "v3": 0.5}, map[string]*model{"v3": good()})
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFile(t)
				defer f.end()
				f.apply(declared(), onlyV1, map[string]*model{"v1": good(), "v2": failing(1)})
				f.ask(100)
				f.want(serving.CanaryRolledBack, "queries failed", onlyV1)
				f.apply(declared(), onlyV1, nil)
				f.want(serving.CanaryRolledBack, "queries failed", onlyV1)
				change(f)
				if c := f.canary(); c.State != serving.CanaryShifting || c.Weight != 0.2 {
					t.Errorf("after a change it is %+v", c)
				}
			})
		})
	}
}

func TestADeclaredCanaryThatIsTakenOutEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFile(t)
		defer f.end()
		f.apply(declared(), onlyV1, map[string]*model{"v1": good(), "v2": good()})
		f.want(serving.CanaryShifting, "", fifth)
		f.apply(nil, onlyV1, nil)
		f.want(serving.CanaryAborted, "declared otherwise", onlyV1)
		f.ask(10)
		f.want(serving.CanaryAborted, "declared otherwise", onlyV1)
	})
}

func TestADeclaredCanaryTakesThePlaceOfOneThatWasStartedByHand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFile(t)
		defer f.end()
		f.apply(nil, onlyV1, map[string]*model{"v1": good(), "v2": good()})
		spec := quick
		spec.Steps = []float64{0.9}
		f.start(spec)
		f.apply(nil, onlyV1, nil)
		if w := f.canary().Weight; w != 0.9 {
			t.Errorf("the file says nothing of it, and its weight is %v", w)
		}
		f.apply(declared(), onlyV1, nil)
		f.want(serving.CanaryShifting, "", fifth)
	})
}

func TestACanaryThatCannotBeIsRefusedWithItsPlan(t *testing.T) {
	for name, spec := range map[string]serving.CanarySpec{
		"a backend that is not there": {Backend: "v3"},
		"a backend that has traffic":  {Backend: "v1"},
		"steps that shrink":           {Backend: "v2", Steps: []float64{0.5, 0.1}},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRegistry(t)
			p := plan(map[string]*model{"v1": good(), "v2": good()}, map[string]serving.EndpointSpec{"m": {Traffic: maps.Clone(onlyV1), Canary: &spec}})
			if _, _, err := r.Apply(t.Context(), p); err == nil {
				t.Error("it was taken")
			}
			if n := len(r.BackendStatuses()); n > 0 {
				t.Errorf("%d backends were started", n)
			}
		})
	}
}

func TestADeclaredCanaryThatIsPutBackIsStartedAgain(t *testing.T) {
	for name, test := range map[string]struct {
		queries int // before it is taken out
		then    map[string]float64
	}{"before it took over": {20, onlyV1}, "after it took over": {400, onlyV2}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFile(t)
				defer f.end()
				f.apply(declared(), onlyV1, map[string]*model{"v1": good(), "v2": good()})
				f.ask(test.queries)
				f.apply(nil, test.then, nil)
				f.apply(declared(), onlyV1, nil)
				f.want(serving.CanaryShifting, "", fifth)
			})
		})
	}
}

func TestACanaryGoesWithItsEndpoint(t *testing.T) {
	for name, remove := range map[string]func(f *file) error{
		"by a call": func(f *file) error { return f.DeleteEndpoint("m") },
		"by a plan": func(f *file) error {
			_, _, err := f.Apply(f.t.Context(), serving.Plan{RemoveEndpoints: []string{"m"}})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFile(t)
				defer f.end()
				f.apply(declared(), onlyV1, map[string]*model{"v1": good(), "v2": good()})
				f.ask(10)
				if err := remove(f); err != nil {
					t.Fatal(err)
				}
				f.apply(declared(), onlyV1, nil)
				f.want(serving.CanaryShifting, "", fifth)
				if n := f.canary().Baseline.Queries; n > 0 {
					t.Errorf("the new one has counted %d queries already", n)
				}
			})
		})
	}
}

func TestDefaultsThatAreWrittenOutAreNoChangeOfADeclaredCanary(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFile(t)
		defer f.end()
		f.apply(declared(), onlyV1, map[string]*model{"v1": good(), "v2": good()})
		f.ask(20)
		before := f.canary().Canary.Queries
		spec := declared()
		if err := spec.Check(); err != nil { // which fills them
			t.Fatal(err)
		}
		f.apply(spec, onlyV1, nil)
		if after := f.canary().Canary.Queries; after != before {
			t.Errorf("it has %d answers, and had %d", after, before)
		}
	})
}

func TestAReloadChangesTheShadowsBesideACanary(t *testing.T) {
	for name, test := range map[string]struct {
		canary        *serving.CanarySpec
		before, after map[string]float64 // the shadows that are declared
		now, then     map[string]float64 // those there are after the reload, and when the canary is over
	}{
		"one more": {
			declared(), nil, map[string]float64{"v3": 1}, map[string]float64{"v3": 1}, map[string]float64{"v3": 1},
		},
		"one less, while it is compared": {
			comparedFirst(), map[string]float64{"v3": 1}, nil, map[string]float64{"v2": 1}, map[string]float64{},
		},
		"its own, while it is compared": {
			comparedFirst(), nil, map[string]float64{"v2": 0.5}, map[string]float64{"v2": 1}, map[string]float64{"v2": 0.5},
		},
		"its own, while it gets traffic": {
			declared(), map[string]float64{"v2": 1}, map[string]float64{"v2": 0.5}, map[string]float64{"v2": 0.5}, map[string]float64{"v2": 0.5},
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFile(t)
				defer f.end()
				shadows := func(want map[string]float64) {
					t.Helper()
					e, err := f.EndpointStatus("m")
					if diff := cmp.Diff(want, e.Shadows); diff != "" || err != nil {
						t.Errorf("%v, shadows (-want +got):\n%s", err, diff)
					}
				}
				spec := serving.EndpointSpec{Traffic: onlyV1, Canary: test.canary, Shadows: test.before}
				f.applySpec(spec, map[string]*model{"v1": good(), "v2": good(), "v3": good()})
				f.ask(5)
				state := f.canary().State
				spec.Shadows = test.after
				f.applySpec(spec, nil)
				if now := f.canary().State; now != state {
					t.Errorf("the canary is %s, and was %s", now, state)
				}
				shadows(test.now)
				f.ask(600)
				if c := f.canary().Comparison; test.canary.Compare != nil && c.Compared < 20 {
					t.Errorf("compared %+v", c)
				}
				f.want(serving.CanaryPromoted, "all steps", onlyV2)
				shadows(test.then)
			})
		})
	}
}

// comparedFirst is a canary that is compared until 20 answers were.
func comparedFirst() *serving.CanarySpec {
	spec := declared()
	spec.Compare, spec.MinCompared = &serving.Compare{}, 20
	return spec
}

func TestACanaryThatCannotBeginLeavesAllAsItWas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFile(t)
		f.apply(nil, onlyV1, map[string]*model{"v1": good(), "v2": good()})
		f.end() // takes no changes any more
		p := plan(nil, map[string]serving.EndpointSpec{"m": {Traffic: onlyV1, Canary: declared()}})
		_, _, err := f.Apply(t.Context(), p)
		wantCode(t, err, serving.Draining)
		if e, err := f.EndpointStatus("m"); err != nil || e.Canary != nil {
			t.Errorf("%+v, %v", e, err)
		}
	})
}

// Three that lock the same things begin at different ends of them.
func TestReloadsAndCallsDoNotWaitForEachOther(t *testing.T) {
	f := newFile(t)
	defer f.end()
	f.apply(nil, onlyV1, map[string]*model{"v1": good(), "v2": good()})
	var calls sync.WaitGroup
	for _, call := range []func(){
		func() { f.apply(nil, onlyV1, nil); f.apply(declared(), onlyV1, nil) },
		func() {
			spec := quick
			spec.Backend = "v2"
			_, _ = f.StartCanary("m", spec)
			_, _ = f.AbortCanary("m")
		},
		func() { f.EndpointStatuses() },
	} {
		calls.Go(func() {
			for range 500 {
				call()
			}
		})
	}
	done := make(chan struct{})
	go func() { calls.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(time.Minute):
		t.Fatal("they wait for each other")
	}
}
