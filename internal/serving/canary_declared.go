package serving

import (
	"errors"
	"maps"
	"reflect"
	"slices"
)

// declaration is what a plan said of an endpoint when its canary was started.
type declaration struct {
	spec    CanarySpec
	traffic map[string]float64
}

// Check refuses a spec that makes no sense.
func (s CanarySpec) Check() error { return s.check() }

// check refuses a canary that could not be started.
func (s *EndpointSpec) checkCanary(traffic []share, backends map[string]Backend) error {
	if s.Canary == nil {
		return nil
	}
	if err := s.Canary.Check(); err != nil {
		return err
	}
	name := s.Canary.Backend
	if _, ok := backends[name]; !ok {
		return backendNotFound(name, backends)
	}
	if weights(traffic)[name] > 0 {
		return Errorf(InvalidArgument, "canary: backend %q is in the endpoint's traffic already", name)
	}
	return nil
}

// declaredCanary settles what becomes of an endpoint's canary under a plan: the one
// that was declared before, and has not changed, goes on or stays over; any other
// declared one is to be started. e is the endpoint as the plan says, old as it is;
// it may be nil. It reports whether the traffic is to be what the plan says, also where
// it says the same as before.
func (a *application) declaredCanary(e, old *Endpoint, spec *CanarySpec) (anew bool) {
	c := a.registry.canaries.get(e.Name)
	if spec == nil {
		if c != nil && c.declared != nil {
			a.dropped = append(a.dropped, c)
			return true
		}
		return false
	}
	said := &declaration{*spec, weights(e.traffic)}
	if c == nil || !reflect.DeepEqual(c.declared, said) || a.startsAnew(c) {
		a.canaries = append(a.canaries, declared{e.Name, said})
		if c != nil {
			a.dropped = append(a.dropped, c)
		}
		return true
	}
	promoted := map[string]float64{spec.Backend: 1}
	if old != nil && c.status().State == CanaryPromoted && maps.Equal(weights(old.traffic), promoted) {
		e.traffic = old.traffic
	}
	return false
}

// startsAnew reports whether a canary that did not change is to be tried again: its
// backend did, and it has not taken over.
func (a *application) startsAnew(c *canary) bool {
	return slices.Contains(a.done.Deployed, c.spec.Backend) && c.status().State != CanaryPromoted
}

// declared is a canary that is to be started.
type declared struct {
	endpoint string
	as       *declaration
}

// startCanaries ends the canaries that a plan dropped and starts those that it
// declares. Those that are there already have no say.
func (a *application) startCanaries() error {
	for _, c := range a.dropped {
		c.drop()
	}
	var errs []error
	for _, d := range a.canaries {
		_, err := a.registry.startCanary(d.endpoint, d.as.spec, d.as)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// drop ends a canary, if it is not over, whose endpoint was declared otherwise.
func (c *canary) drop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.state.over() {
		c.end(CanaryAborted, "it was declared otherwise")
	}
}
