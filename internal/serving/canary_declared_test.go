package serving_test

import (
	"maps"
	"testing"
	"testing/synctest"

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
	p := plan(anew, map[string]serving.EndpointSpec{"m": {Traffic: traffic, Canary: canary}})
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
