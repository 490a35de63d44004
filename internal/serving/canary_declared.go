package serving

import (
	"maps"
	"reflect"
	"slices"
)

// declaration is what a plan said of an endpoint when its canary was started.
type declaration struct {
	spec    CanarySpec // with its defaults
	traffic map[string]float64
}

// checkCanary refuses a canary that could not be started.
func (s *EndpointSpec) checkCanary(traffic []share, backends map[string]Backend) error {
	if s.Canary == nil {
		return nil
	}
	spec := *s.Canary // which stays as it was given
	if err := spec.Check(); err != nil {
		return err
	}
	if _, ok := backends[spec.Backend]; !ok {
		return backendNotFound(spec.Backend, backends)
	}
	if weights(traffic)[spec.Backend] > 0 {
		return Errorf(InvalidArgument, "canary: backend %q is in the endpoint's traffic already", spec.Backend)
	}
	return nil
}

// holdCanaries holds those of all endpoints that the plan names.
func (a *application) holdCanaries() (release func()) {
	return a.registry.canaries.hold(append(slices.Collect(maps.Keys(a.plan.Endpoints)), a.plan.RemoveEndpoints...)...)
}

// canary settles what becomes of an endpoint's canary under a plan: the one that was
// declared before, and has not changed, goes on or stays over, and so does one that was
// started by a call while nothing is declared; any other declared one is to be started. e is
// the endpoint as the plan says, old as it is; it may be nil. Where a canary starts or
// was dropped, the traffic is to be what the plan says.
func (a *application) canary(t *table, e, old *Endpoint, spec *CanarySpec) error {
	c := a.registry.canaries.all[e.Name]
	if spec == nil {
		if c != nil && c.declared != nil {
			a.dropped = append(a.dropped, c)
			return nil
		}
		return a.goOn(t, c, e, old)
	}
	said := &declaration{*spec, weights(e.traffic)}
	if err := said.spec.Check(); err != nil {
		return err
	}
	if c == nil || !reflect.DeepEqual(c.declared, said) || a.startsAnew(c) {
		a.declare(e.Name, said)
		if c != nil {
			a.dropped = append(a.dropped, c)
		}
		return nil
	}
	promoted := map[string]float64{spec.Backend: 1}
	if old != nil && c.state == CanaryPromoted && maps.Equal(weights(old.traffic), promoted) {
		e.traffic = old.traffic
	}
	return a.goOn(t, c, e, old)
}

// startsAnew reports whether a canary that did not change is to be tried again: its
// backend did, and it has not taken over.
func (a *application) startsAnew(c *canary) bool {
	return slices.Contains(a.done.Deployed, c.spec.Backend) && c.state != CanaryPromoted
}

// declare notes a canary that is to be started.
func (a *application) declare(endpoint string, as *declaration) {
	if a.declared == nil {
		a.declared = make(map[string]*declaration)
	}
	a.declared[endpoint] = as
}

// goOn gives an endpoint what its canary, if one runs, did to it: its traffic, unless the plan
// says otherwise than before the canary, and the canary's own shadow while it is
// compared. The other shadows are those of the plan.
func (a *application) goOn(t *table, c *canary, e, old *Endpoint) (err error) {
	if c == nil || c.state.over() || old == nil || old.watch != c.stored || !maps.Equal(weights(e.traffic), old.watch.before) {
		return nil
	}
	if a.shadows == nil {
		a.shadows = make(map[*canary]float64)
	}
	a.shadows[c] = weights(e.shadows)[c.spec.Backend]
	e.traffic, e.watch = old.traffic, old.watch
	if c.state == CanaryComparing {
		e.shadows, err = withShadow(e.shadows, c.spec.Backend, 1, t.backends)
	}
	e.compareShadow(c.spec.Backend, c.comparison)
	return err
}

// beginCanaries has the canaries that a plan declares make their first changes. Those
// that are there already have no say.
func (a *application) beginCanaries(t *table) error {
	for _, name := range slices.Sorted(maps.Keys(a.declared)) {
		as := a.declared[name]
		c := a.registry.newCanary(name, as.spec, as)
		a.started = append(a.started, c)
		if err := c.begin(t); err != nil {
			return err
		}
	}
	return nil
}

// moveCanaries ends those that a plan dropped, lets those run that it declares, and tells
// those that go on of their shadows. They are held.
func (a *application) moveCanaries() {
	all := &a.registry.canaries
	for _, c := range a.dropped {
		c.drop("it was declared otherwise")
	}
	for _, name := range a.done.RemovedEndpoints {
		all.forget(name)
	}
	for c, shadow := range a.shadows {
		c.shadow = shadow
	}
	for _, c := range a.started {
		all.launch(c)
	}
}
