package serving_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/shoalserve/shoal/internal/serving"
)

// plan is a plan of backends that are built by models, and of endpoints.
func plan(models map[string]*model, endpoints map[string]serving.EndpointSpec) serving.Plan {
	p := serving.Plan{Backends: make(map[string]serving.BackendPlan), Endpoints: endpoints}
	for name, m := range models {
		p.Backends[name] = serving.BackendPlan{Build: m.build(name, serving.Config{})}
	}
	return p
}

func apply(t *testing.T, r *serving.Registry, p serving.Plan) (map[string]serving.Backend, serving.Applied) {
	t.Helper()
	placed, done, err := r.Apply(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	return placed, done
}

func wantAnswer(t *testing.T, r *serving.Registry, endpoint, want string) {
	t.Helper()
	if got, err := ask(r, endpoint, "q", ""); got != want || err != nil {
		t.Errorf("%s answers %q, %v; want %q", endpoint, got, err, want)
	}
}

func TestAPlanStartsChangesKeepsAndRemoves(t *testing.T) {
	r := newRegistry(t)
	old, stays := says("1"), says("s")
	placed, done := apply(t, r, plan(
		map[string]*model{"changes": old, "stays": stays, "goes": says("g")},
		map[string]serving.EndpointSpec{"a": {Backend: "changes", Route: "/a"}, "b": {Backend: "stays", Route: "/b"}, "c": {Backend: "goes"}},
	))
	want := serving.Applied{Deployed: []string{"changes", "goes", "stays"}, Endpoints: []string{"a", "b", "c"}}
	if diff := cmp.Diff(want, done, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("the first plan did (-want +got):\n%s", diff)
	}

	next := plan(
		map[string]*model{"changes": says("2"), "stays": says("never"), "new": says("n")},
		map[string]serving.EndpointSpec{ // a and b exchange their routes
			"a": {Backend: "changes", Route: "/b"}, "b": {Traffic: map[string]float64{"stays": 1}, Route: "/a"},
		},
	)
	kept := next.Backends["stays"]
	kept.Keep, kept.Config = placed["stays"], serving.Config{MaxBatchSize: 7}
	next.Backends["stays"] = kept
	next.RemoveBackends, next.RemoveEndpoints = []string{"goes", "never there"}, []string{"c", "never there"}
	placed, done = apply(t, r, next)
	want = serving.Applied{
		Deployed: []string{"changes", "new"}, Updated: []string{"stays"}, Removed: []string{"goes"},
		Endpoints: []string{"a", "b"}, RemovedEndpoints: []string{"c"},
	}
	if diff := cmp.Diff(want, done, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("the second plan did (-want +got):\n%s", diff)
	}
	wantAnswer(t, r, "a", "q2")
	wantAnswer(t, r, "b", "qs")
	if e, ok := r.Route("/b"); !ok || e.Name != "a" {
		t.Errorf("route /b leads to %v", e)
	}
	if stays.starts.Load() != 1 || placed["stays"].Config().MaxBatchSize != 7 {
		t.Errorf("what stays was started %d times and has %+v", stays.starts.Load(), placed["stays"].Config())
	}
	until(t, func() bool { return old.closes.Load() == 1 }, "the old version to be closed")
	_, err := ask(r, "c", "", "")
	wantCode(t, err, serving.EndpointNotFound)
}

func TestTheSamePlanAgainChangesNothing(t *testing.T) {
	r := newRegistry(t)
	m, example := says("1"), &serving.Example{Text: "q"}
	p := plan(map[string]*model{"m": m}, map[string]serving.EndpointSpec{"m": {Backend: "m", Route: "/m", Example: example}})
	placed, _ := apply(t, r, p)
	p.Backends["m"] = serving.BackendPlan{Build: m.build("m", serving.Config{}), Keep: placed["m"]}
	again := *example
	p.Endpoints["m"] = serving.EndpointSpec{Backend: "m", Route: "/m", Example: &again}
	if _, done := apply(t, r, p); !cmp.Equal(done, serving.Applied{}, cmpopts.EquateEmpty()) {
		t.Errorf("it did %+v", done)
	}
	if e, _ := r.Endpoint("m"); e.Example != example {
		t.Error("the example must be proved anew")
	}
}

func TestABackendThatOthersReplacedIsNotKept(t *testing.T) {
	r := newRegistry(t)
	placed, _ := apply(t, r, plan(map[string]*model{"m": says("1")}, map[string]serving.EndpointSpec{"m": {Backend: "m"}}))
	if _, err := r.Deploy(t.Context(), "m", true, says("other").build("m", serving.Config{})); err != nil {
		t.Fatal(err)
	}
	p := plan(map[string]*model{"m": says("1")}, nil)
	again := p.Backends["m"]
	again.Keep = placed["m"]
	p.Backends["m"] = again
	if _, done := apply(t, r, p); !slices.Equal(done.Deployed, []string{"m"}) {
		t.Errorf("it did %+v", done)
	}
	wantAnswer(t, r, "m", "q1")
}

func TestAPlanThatFailsChangesNothing(t *testing.T) {
	broken := says("b")
	broken.initErr = errors.New("no weights")
	good := func() map[string]*model { return map[string]*model{"m": says("2"), "new": says("n")} }
	for name, test := range map[string]struct {
		models map[string]*model
		change func(*serving.Plan)
		want   string
		starts int32 // of the good models
	}{
		"a backend does not start": {
			models: map[string]*model{"m": says("2"), "new": says("n"), "broken": broken}, want: "no weights", starts: 1,
		},
		"an endpoint names a backend that is not there": {
			models: good(), want: `backend "absent" does not exist`,
			change: func(p *serving.Plan) { p.Endpoints["x"] = serving.EndpointSpec{Backend: "absent"} },
		},
		"a route is another endpoint's": {
			models: good(), want: `route "/theirs" belongs to endpoint "theirs"`,
			change: func(p *serving.Plan) { p.Endpoints["x"] = serving.EndpointSpec{Backend: "m", Route: "/theirs"} },
		},
		"what is removed is used by others": {
			models: good(), want: `backend "theirs" is used by endpoint "theirs"`,
			change: func(p *serving.Plan) { p.RemoveBackends = []string{"theirs"} },
		},
		"a name cannot be shown": {
			models: map[string]*model{"a\nb": says("n")}, want: "cannot be shown",
		},
		"a backend that goes on cannot have its config": {
			models: good(), want: "no room", starts: 1,
			change: func(p *serving.Plan) {
				p.Backends["stubborn"] = serving.BackendPlan{Keep: p.Backends["stubborn"].Keep, Config: serving.Config{NumReplicas: 2}}
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRegistry(t)
			m := &mortal{}
			stubborn := m.pool(t, serving.Config{})
			m.starting(func(context.Context, int) error { return errors.New("no room") })
			if _, err := r.Deploy(t.Context(), "stubborn", false, func(context.Context) (serving.Backend, error) {
				return onlyPool{Pool: stubborn, name: "stubborn"}, nil
			}); err != nil {
				t.Fatal(err)
			}
			deploy(t, r, "m", says("1"))
			deploy(t, r, "theirs", says("t"))
			endpoint(t, r, "m", "m")
			endpoint(t, r, "theirs", "theirs")
			kept, err := r.Backend("stubborn")
			if err != nil {
				t.Fatal(err)
			}
			p := plan(test.models, map[string]serving.EndpointSpec{"m": {Backend: "m", Route: "/moved"}})
			p.Backends["stubborn"] = serving.BackendPlan{Keep: kept, Config: kept.Config()}
			if test.change != nil {
				test.change(&p)
			}
			_, _, err = r.Apply(t.Context(), p)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("the error is %v", err)
			}
			wantAnswer(t, r, "m", "q1")
			wantAnswer(t, r, "theirs", "qt")
			if _, moved := r.Route("/moved"); moved || len(r.BackendStatuses()) != 3 || len(r.Endpoints()) != 2 {
				t.Error("something changed")
			}
			for name, m := range test.models {
				if name == "broken" {
					continue
				}
				if m.starts.Load() != test.starts || m.closes.Load() != m.starts.Load() {
					t.Errorf("%q was started %d times and closed %d times, want %d", name, m.starts.Load(), m.closes.Load(), test.starts)
				}
			}
		})
	}
}

func TestConfigsThatWereUpdatedAreTakenBackWhenAnotherFails(t *testing.T) {
	r := newRegistry(t)
	placed, _ := apply(t, r, plan(map[string]*model{"a": says("1"), "b": says("1")}, nil))
	p := serving.Plan{Backends: map[string]serving.BackendPlan{
		"a": {Keep: placed["a"], Config: serving.Config{MaxBatchSize: 5}},
		"b": {Keep: placed["b"], Config: serving.Config{MaxBatchSize: 5}},
	}}
	before := placed["a"].Config()
	if err := placed["b"].Close(t.Context()); err != nil { // so that it takes no config
		t.Fatal(err)
	}
	if _, _, err := r.Apply(t.Context(), p); err == nil {
		t.Error("all is well")
	}
	if diff := cmp.Diff(before, placed["a"].Config()); diff != "" {
		t.Errorf("a's config changed:\n%s", diff)
	}
}

func TestAClosedRegistryTakesNoPlan(t *testing.T) {
	r := serving.NewRegistry()
	if err := r.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	m := says("1")
	_, _, err := r.Apply(t.Context(), plan(map[string]*model{"m": m}, nil))
	wantCode(t, err, serving.Draining)
	if m.closes.Load() != m.starts.Load() {
		t.Error("what was started for it runs on")
	}
}

// onlyPool is a backend under another name that takes no calls.
type onlyPool struct {
	*serving.Pool[string, string]
	name string
}

func (p onlyPool) Name() string                { return p.name }
func (p onlyPool) Submit(*serving.Call) error  { return errors.New("takes no calls") }
func (p onlyPool) Withdraw(*serving.Call) bool { return false }
