package serving

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"sync"
)

// Plan is a change of much at once.
type Plan struct {
	// Backends are put in place of those that have the name, if any.
	Backends map[string]BackendPlan
	// Endpoints become what their specs say, whole.
	Endpoints map[string]EndpointSpec
	// RemoveBackends and RemoveEndpoints name what is to go. A backend that
	// an endpoint of others uses is InUse; what is gone already is no error.
	RemoveBackends, RemoveEndpoints []string
}

// BackendPlan is what a backend is to be.
type BackendPlan struct {
	Build Build
	// Keep goes on, with Config, if it is the one that has the name; else
	// Build starts another. Nil: another in any case.
	Keep   Backend
	Config Config
}

// Applied tells what a [Plan] changed, by names in their order.
type Applied struct {
	Deployed         []string `json:"deployed"`          // backends that were started
	Updated          []string `json:"updated"`           // backends that go on with another config
	Removed          []string `json:"removed"`           // backends
	Endpoints        []string `json:"endpoints"`         // that are new or differ from before
	RemovedEndpoints []string `json:"removed_endpoints"` // and are gone
}

// Apply does all of a plan or nothing. First everything that can fail: it checks
// the plan, starts the new backends all at once, and updates configs; then it
// changes the table in one step, and what was replaced or removed finishes what
// it accepted. It returns the backends in place by the plan's names.
func (r *Registry) Apply(ctx context.Context, plan Plan) (map[string]Backend, Applied, error) {
	unlock, err := r.lockAll(ctx, plan)
	if err != nil {
		return nil, Applied{}, err
	}
	defer unlock()
	a := &application{registry: r, plan: plan, old: r.table.Load().backends, next: make(map[string]Backend)}
	if err := a.check(); err != nil {
		return nil, Applied{}, err
	}
	if err := a.build(ctx); err != nil {
		return nil, Applied{}, err
	}
	revert, err := a.update(ctx)
	if err != nil {
		return nil, Applied{}, errors.Join(err, a.undo(ctx))
	}
	if err := a.putInForce(); err != nil {
		return nil, Applied{}, errors.Join(err, revert(), a.undo(ctx))
	}
	for _, old := range a.gone {
		r.retire(old)
	}
	return a.next, a.done.filled(), nil
}

// filled is what was done with lists that are empty, and not null, in JSON.
func (a Applied) filled() Applied {
	for _, names := range []*[]string{&a.Deployed, &a.Updated, &a.Removed, &a.Endpoints, &a.RemovedEndpoints} {
		if *names == nil {
			*names = []string{}
		}
	}
	return a
}

// lockAll locks every backend of a plan, in the order of their names, so that
// two plans cannot wait for each other.
func (r *Registry) lockAll(ctx context.Context, plan Plan) (unlock func(), err error) {
	var unlocks []func()
	unlock = func() {
		for _, u := range unlocks {
			u()
		}
	}
	names := slices.Sorted(maps.Keys(plan.Backends))
	for _, name := range slices.Compact(slices.Sorted(slices.Values(append(names, plan.RemoveBackends...)))) {
		u, err := r.deploying.lock(ctx, name)
		if err != nil {
			unlock()
			return nil, err
		}
		unlocks = append(unlocks, u)
	}
	return unlock, nil
}

// application is a plan on its way into force.
type application struct {
	registry *Registry
	plan     Plan
	old      map[string]Backend
	next     map[string]Backend // by the plan's names
	built    []Backend          // those of next that were started for it
	rolled   []Backend          // those of next that took another version over
	gone     []Backend          // counted in retiring
	done     Applied

	declared map[string]*declaration // of the endpoints whose canaries are to be started
	started  []*canary
	dropped  []*canary           // that are to end
	shadows  map[*canary]float64 // their own proportions as shadows, as the plan says, of those that go on
}

// promised stands for a backend that is not started yet.
type promised struct {
	Backend
	name string
}

func (p promised) Name() string { return p.name }

// kept returns the backend that goes on under a name; nil: another is started.
func (a *application) kept(name string) Backend {
	if keep := a.plan.Backends[name].Keep; keep != nil && a.old[name] == keep {
		return keep
	}
	return nil
}

// check tries the change on a table that is thrown away: what is wrong with the
// plan is known before anything is started.
func (a *application) check() error {
	for name := range a.plan.Backends {
		if err := checkName("backend", name); err != nil {
			return err
		}
		if a.next[name] = a.kept(name); a.next[name] == nil {
			a.next[name] = promised{name: name}
		}
	}
	for name := range a.plan.Endpoints {
		if err := checkName("endpoint", name); err != nil {
			return err
		}
	}
	defer a.holdCanaries()()
	trial := application{registry: a.registry, plan: a.plan, next: a.next}
	return trial.replace(a.registry.table.Load().copy())
}

// build starts the backends that are not kept, all at once, or none.
func (a *application) build(ctx context.Context) error {
	names := slices.DeleteFunc(slices.Sorted(maps.Keys(a.plan.Backends)), func(name string) bool { return a.kept(name) != nil })
	built, errs := make([]Backend, len(names)), make([]error, len(names))
	var building sync.WaitGroup
	for i, name := range names {
		building.Go(func() { built[i], errs[i] = a.plan.Backends[name].Build(ctx) })
	}
	building.Wait()
	for i, name := range names {
		if errs[i] == nil {
			a.next[name] = built[i]
			if built[i] == a.old[name] { // it took the new version over itself
				a.rolled = append(a.rolled, built[i])
			} else {
				a.built = append(a.built, built[i])
			}
		}
	}
	if err := errors.Join(errs...); err != nil {
		return errors.Join(err, a.undo(ctx))
	}
	a.done.Deployed = names
	return nil
}

// undo stops what was started, and takes back what was taken over.
func (a *application) undo(ctx context.Context) error {
	var errs []error
	for _, b := range a.rolled {
		if r, ok := b.(interface{ Revert(context.Context) error }); ok {
			errs = append(errs, r.Revert(context.WithoutCancel(ctx)))
		}
	}
	for _, b := range a.built {
		errs = append(errs, b.Close(ctx))
	}
	return errors.Join(errs...)
}

// update gives the backends that go on their configs, or leaves all as they
// were. revert takes it back.
func (a *application) update(ctx context.Context) (revert func() error, err error) {
	var undo []func() error
	revert = func() error {
		var errs []error
		for _, u := range undo {
			errs = append(errs, u())
		}
		return errors.Join(errs...)
	}
	for _, name := range slices.Sorted(maps.Keys(a.plan.Backends)) {
		b := a.kept(name)
		if b == nil {
			continue
		}
		before := b.Config()
		if err := b.Update(ctx, a.plan.Backends[name].Config); err != nil {
			return nil, errors.Join(err, revert())
		}
		if !reflect.DeepEqual(before, b.Config()) {
			a.done.Updated = append(a.done.Updated, name)
			undo = append(undo, func() error { return b.Update(context.WithoutCancel(ctx), before) })
		}
	}
	return revert, nil
}

// putInForce changes the table and lets the canaries know.
func (a *application) putInForce() error {
	defer a.holdCanaries()()
	if err := a.registry.change(a.put); err != nil {
		for _, c := range a.started {
			c.cancel()
		}
		return err
	}
	a.moveCanaries()
	return nil
}

// put changes the table for good. The canaries are held.
func (a *application) put(t *table) error {
	if err := a.replace(t); err != nil {
		return err
	}
	if err := a.beginCanaries(t); err != nil {
		return err
	}
	a.registry.retiring.Add(len(a.gone)) // now, for a Close that follows to wait for them
	return nil
}

// replace changes a table to what the plan says.
func (a *application) replace(t *table) error {
	for _, name := range a.plan.RemoveEndpoints {
		if t.remove(name) {
			a.done.RemovedEndpoints = append(a.done.RemovedEndpoints, name)
		}
	}
	for name, b := range a.next {
		if old := t.backends[name]; old != nil && old != b {
			a.gone = append(a.gone, old)
		}
		t.place(b)
	}
	if err := a.endpoints(t); err != nil {
		return err
	}
	for _, name := range a.plan.RemoveBackends {
		if err := t.unused(name); err != nil {
			return err
		}
		if old := t.backends[name]; old != nil {
			a.gone = append(a.gone, old)
			a.done.Removed = append(a.done.Removed, name)
			delete(t.backends, name)
		}
	}
	return nil
}

// endpoints puts the plan's endpoints into the table. The canaries are held. The routes of all are
// free first, so that two may exchange theirs.
func (a *application) endpoints(t *table) error {
	before := make(map[string]*Endpoint)
	for name := range a.plan.Endpoints {
		before[name] = t.endpoints[name]
		t.remove(name)
	}
	for _, name := range slices.Sorted(maps.Keys(a.plan.Endpoints)) {
		e, err := t.newEndpoint(a.registry, name, a.plan.Endpoints[name])
		if err != nil {
			return fmt.Errorf("endpoint %q: %w", name, err)
		}
		old := before[name]
		if err := a.canary(t, e, old, a.plan.Endpoints[name].Canary); err != nil {
			return fmt.Errorf("endpoint %q: %w", name, err)
		}
		if old != nil && reflect.DeepEqual(old.Example, e.Example) {
			e.Example = old.Example // what proved itself with it need not again
		}
		if old == nil || !reflect.DeepEqual(old.status(), e.status()) {
			a.done.Endpoints = append(a.done.Endpoints, name)
		}
		t.set(e)
	}
	return nil
}
