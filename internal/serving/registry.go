package serving

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"unicode"
	"unicode/utf8"

	"github.com/agnivade/levenshtein"
)

// Registry is all that is deployed. Queries read an immutable table; each
// change makes a new one, so that a query sees all of a change or none of it.
type Registry struct {
	table atomic.Pointer[table]

	mu        sync.Mutex // guards changes of the table, and closed
	closed    bool
	deploying keyedMutex     // one deploy of a name at a time
	retiring  sync.WaitGroup // replaced backends that finish their queries
	stop      context.CancelCauseFunc
	ctx       context.Context // ends when retiring backends must give up

	comparing sync.WaitGroup // answers of shadows
	canaries  canaries
}

type table struct {
	backends  map[string]Backend
	endpoints map[string]*Endpoint
	routes    map[string]*Endpoint
}

// NewRegistry returns a registry with nothing in it. Close it when done.
func NewRegistry() *Registry {
	r := &Registry{}
	r.ctx, r.stop = context.WithCancelCause(context.Background())
	r.table.Store(&table{})
	return r
}

// Build starts a backend; it is given to [Registry.Deploy]. It may also return the
// one that has the name, if that has taken the new version over (see [Pool.Roll]).
type Build func(ctx context.Context) (Backend, error)

// Deploy builds a backend and puts it in place once it is ready. If one of
// that name exists, it is an AlreadyExists error, or, with replace, the new one
// takes over its traffic and the old one finishes what it accepted. If the
// build fails, nothing changes. Deploys of one name follow each other; one that
// still waits for another when ctx ends returns its cause.
func (r *Registry) Deploy(ctx context.Context, name string, replace bool, build Build) (Backend, error) {
	if err := checkName("backend", name); err != nil {
		return nil, err
	}
	unlock, err := r.deploying.lock(ctx, name)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if _, exists := r.table.Load().backends[name]; exists && !replace {
		return nil, Errorf(AlreadyExists, "backend %q exists already; give replace to put a new version in its place, or delete it first", name)
	}
	next, err := build(ctx)
	if err != nil {
		return nil, err
	}
	var old Backend
	err = r.change(func(t *table) error {
		if old = t.backends[name]; old == next { // it took the new version over itself
			old = nil
			return nil
		}
		if old != nil {
			r.retiring.Add(1) // now, for a Close that follows to wait for it
		}
		t.place(next)
		return nil
	})
	if err != nil {
		return nil, errors.Join(err, next.Close(ctx))
	}
	if old != nil {
		r.retire(old)
	}
	return next, nil
}

// retire lets a backend finish in the background what it accepted, until the
// registry is closed and runs out of time. Its error goes to whoever waits for
// it. The backend was counted in retiring when it left the table.
func (r *Registry) retire(old Backend) <-chan error {
	closed := make(chan error, 1)
	go func() { // Close waits for it
		defer r.retiring.Done()
		closed <- old.Close(r.ctx)
	}()
	return closed
}

// Delete removes a backend that no endpoint uses and waits until its queries
// are answered, or ctx ends; they are answered all the same. A name that does not exist is no error.
func (r *Registry) Delete(ctx context.Context, name string) error {
	unlock, err := r.deploying.lock(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	var old Backend
	err = r.change(func(t *table) error {
		if err := t.unused(name); err != nil {
			return err
		}
		if old = t.backends[name]; old != nil {
			r.retiring.Add(1)
		}
		delete(t.backends, name)
		return nil
	})
	if err != nil || old == nil {
		return err
	}
	select {
	case err := <-r.retire(old):
		return err
	case <-ctx.Done():
		return fmt.Errorf("waiting for the last queries of backend %q: %w", name, context.Cause(ctx))
	}
}

// Backend returns the backend of that name, or a BackendNotFound error.
func (r *Registry) Backend(name string) (Backend, error) {
	t := r.table.Load()
	if b, ok := t.backends[name]; ok {
		return b, nil
	}
	return nil, backendNotFound(name, t.backends)
}

// UpdateConfig changes a backend's config from the JSON of the keys to change.
func (r *Registry) UpdateConfig(ctx context.Context, name string, patch []byte) error {
	return r.Reconfigure(ctx, name, func(old Config) (Config, error) { return DecodeConfig(old, patch) })
}

// Reconfigure changes a backend's config to what change makes of the one in force.
func (r *Registry) Reconfigure(ctx context.Context, name string, change func(Config) (Config, error)) error {
	unlock, err := r.deploying.lock(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	b, err := r.Backend(name)
	if err != nil {
		return err
	}
	next, err := change(b.Config())
	if err != nil {
		return err
	}
	return b.Update(ctx, next)
}

// CreateEndpoint makes an endpoint. The same endpoint again is no error and
// reports false.
func (r *Registry) CreateEndpoint(name string, spec EndpointSpec) (created bool, err error) {
	if err := checkName("endpoint", name); err != nil {
		return false, err
	}
	if err := spec.Check(); err != nil {
		return false, err
	}
	err = r.change(func(t *table) error {
		if old, ok := t.endpoints[name]; ok {
			if _, _, err := spec.shares(t.backends); err != nil {
				return err
			}
			if old.Route == spec.Route && slices.Equal(old.Methods, spec.Methods) {
				return nil
			}
			return Errorf(AlreadyExists, "endpoint %q exists already, with route %q and methods %s", name, old.Route, strings.Join(old.Methods, ", "))
		}
		e, err := t.newEndpoint(r, name, spec)
		if err != nil {
			return err
		}
		created = true
		t.set(e)
		return nil
	})
	return created, err
}

// DeleteEndpoint removes an endpoint, with its canary, and leaves its backends alone. A name that
// does not exist is no error.
func (r *Registry) DeleteEndpoint(name string) error {
	defer r.canaries.hold(name)()
	err := r.change(func(t *table) error {
		t.remove(name)
		return nil
	})
	if err == nil {
		r.canaries.forget(name)
	}
	return err
}

// SetTraffic splits an endpoint's traffic over backends. Weights are not
// negative and sum to 1. Shadow traffic stays as it is.
func (r *Registry) SetTraffic(endpoint string, weights map[string]float64) error {
	return r.changeEndpoint(endpoint, func(e *Endpoint, t *table) (err error) {
		e.traffic, err = newTraffic(weights, t.backends)
		e.watch = nil // a canary does not go on over somebody's head
		return err
	})
}

// Shadow sends a copy of a proportion, 0 to 1, of an endpoint's queries to a
// backend and drops the answers. 0 stops it.
func (r *Registry) Shadow(endpoint, backend string, proportion float64) error {
	return r.changeEndpoint(endpoint, func(e *Endpoint, t *table) (err error) {
		e.shadows, err = withShadow(e.shadows, backend, proportion, t.backends)
		return err
	})
}

// Endpoint returns the endpoint of that name, or an EndpointNotFound error.
func (r *Registry) Endpoint(name string) (*Endpoint, error) {
	return r.table.Load().endpoint(name)
}

// Route returns the endpoint that serves a path.
func (r *Registry) Route(path string) (*Endpoint, bool) {
	e, ok := r.table.Load().routes[path]
	return e, ok
}

// Endpoints returns all endpoints in the order of their names.
func (r *Registry) Endpoints() []*Endpoint {
	return sorted(r.table.Load().endpoints)
}

// EndpointStatuses returns the status of all endpoints in the order of their names.
func (r *Registry) EndpointStatuses() []EndpointStatus {
	statuses := []EndpointStatus{}
	for _, e := range r.Endpoints() {
		statuses = append(statuses, r.describe(e))
	}
	return statuses
}

// EndpointStatus returns the status of one endpoint.
func (r *Registry) EndpointStatus(name string) (EndpointStatus, error) {
	e, err := r.Endpoint(name)
	if err != nil {
		return EndpointStatus{}, err
	}
	return r.describe(e), nil
}

// BackendStatuses returns the status of all backends in the order of their names.
func (r *Registry) BackendStatuses() []BackendStatus {
	statuses := []BackendStatus{}
	for _, b := range sorted(r.table.Load().backends) {
		statuses = append(statuses, b.Status())
	}
	return statuses
}

// Close refuses new queries and changes, finishes the accepted queries and
// stops every replica. When ctx ends first, what is left fails.
func (r *Registry) Close(ctx context.Context) error {
	r.mu.Lock()
	r.closed = true
	backends := r.table.Load().backends
	r.mu.Unlock()
	defer context.AfterFunc(ctx, func() { r.stop(context.Cause(ctx)) })()
	r.canaries.close()

	errs := make([]error, len(backends))
	var closing sync.WaitGroup
	for i, b := range sorted(backends) {
		closing.Go(func() { errs[i] = b.Close(ctx) })
	}
	closing.Wait()
	r.retiring.Wait()
	r.comparing.Wait()
	r.stop(nil)
	return errors.Join(errs...)
}

// change applies f to a copy of the table and puts it in place if f succeeds.
func (r *Registry) change(f func(*table) error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return Errorf(Draining, "the server is shutting down and takes no changes")
	}
	next := r.table.Load().copy()
	if err := f(next); err != nil {
		return err
	}
	r.table.Store(next)
	return nil
}

func (r *Registry) changeEndpoint(name string, f func(*Endpoint, *table) error) error {
	return r.change(func(t *table) error {
		return t.changeEndpoint(name, func(e *Endpoint) error { return f(e, t) })
	})
}

// changeEndpoint puts what f makes of a copy of an endpoint in its place if f succeeds.
func (t *table) changeEndpoint(name string, f func(*Endpoint) error) error {
	old, err := t.endpoint(name)
	if err != nil {
		return err
	}
	next := *old
	if err := f(&next); err != nil {
		return fmt.Errorf("endpoint %q: %w", name, err)
	}
	t.set(&next)
	return nil
}

func (t *table) endpoint(name string) (*Endpoint, error) {
	if e, ok := t.endpoints[name]; ok {
		return e, nil
	}
	return nil, Errorf(EndpointNotFound, "endpoint %q does not exist%s", name, suggest(name, t.endpoints))
}

func (t *table) copy() *table {
	return &table{backends: clone(t.backends), endpoints: clone(t.endpoints), routes: clone(t.routes)}
}

// place puts a backend in the place of the one that has its name, if any.
func (t *table) place(b Backend) {
	t.backends[b.Name()] = b
	for _, e := range t.endpoints {
		if e.uses(b.Name()) {
			t.set(e.replaced(b))
		}
	}
}

// unused returns an InUse error if an endpoint uses the backend.
func (t *table) unused(backend string) error {
	for _, e := range sorted(t.endpoints) {
		if e.uses(backend) {
			return Errorf(InUse, "backend %q is used by endpoint %q; move its traffic and shadow traffic away first", backend, e.Name)
		}
	}
	return nil
}

// newEndpoint makes an endpoint of a spec, whose route nobody else may have.
func (t *table) newEndpoint(r *Registry, name string, spec EndpointSpec) (*Endpoint, error) {
	if err := spec.Check(); err != nil {
		return nil, err
	}
	traffic, shadows, err := spec.shares(t.backends)
	if err != nil {
		return nil, err
	}
	if err := spec.checkCanary(traffic, t.backends); err != nil {
		return nil, err
	}
	if other, ok := t.routes[spec.Route]; ok && spec.Route != "" {
		return nil, Errorf(AlreadyExists, "route %q belongs to endpoint %q already", spec.Route, other.Name)
	}
	return &Endpoint{
		Name: name, Route: spec.Route, Methods: spec.Methods, Allow: allow(spec.Methods),
		Example: spec.Example, registry: r, traffic: traffic, shadows: shadows,
	}, nil
}

// remove takes an endpoint out, if there is one of that name.
func (t *table) remove(endpoint string) bool {
	e, ok := t.endpoints[endpoint]
	if ok {
		delete(t.endpoints, endpoint)
		delete(t.routes, e.Route)
	}
	return ok
}

func (t *table) set(e *Endpoint) {
	e.prompt = arePrompt(e.traffic) && arePrompt(e.shadows)
	t.endpoints[e.Name] = e
	if e.Route != "" {
		t.routes[e.Route] = e
	}
}

// maxName is the longest name of a backend or an endpoint, in bytes.
const maxName = 256

// checkName refuses names that logs, metrics and URLs could not show.
func checkName(of, name string) error {
	unprintable := func(r rune) bool { return r == utf8.RuneError || !unicode.IsPrint(r) }
	switch {
	case name == "":
		return Errorf(InvalidArgument, "the %s needs a name", of)
	case name == "." || name == "..":
		return Errorf(InvalidArgument, "the %s's name cannot be %q, which means something else in a URL", of, name)
	case len(name) > maxName:
		return Errorf(InvalidArgument, "the %s's name has %d bytes, at most %d are allowed", of, len(name), maxName)
	case strings.ContainsFunc(name, unprintable):
		return Errorf(InvalidArgument, "the %s's name %q has characters that cannot be shown", of, name)
	}
	return nil
}

func backendNotFound(name string, backends map[string]Backend) error {
	return Errorf(BackendNotFound, "backend %q does not exist%s", name, suggest(name, backends))
}

// suggest names the entry whose name is nearest, when it is near.
func suggest[V any](name string, entries map[string]V) string {
	best, distance := "", len(name)/2+1
	for other := range entries {
		if d := levenshtein.ComputeDistance(name, other); d < distance {
			best, distance = other, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf("; did you mean %q?", best)
}

func clone[V any](m map[string]V) map[string]V {
	if m == nil {
		return make(map[string]V)
	}
	return maps.Clone(m)
}

func sorted[V any](m map[string]V) []V {
	values := make([]V, 0, len(m))
	for _, key := range slices.Sorted(maps.Keys(m)) {
		values = append(values, m[key])
	}
	return values
}

// keyedMutex is a mutex for each key.
type keyedMutex struct {
	mu    sync.Mutex
	locks map[string]*keyLock
}

type keyLock struct {
	held  chan struct{} // has room for its one holder
	users int           // the holder and those that wait
}

// lock locks the key's mutex and returns its unlock, or why ctx ended before.
func (k *keyedMutex) lock(ctx context.Context, key string) (unlock func(), err error) {
	l := k.enter(key)
	select {
	case l.held <- struct{}{}:
		return func() { <-l.held; k.leave(key, l) }, nil
	case <-ctx.Done():
		k.leave(key, l)
		return nil, fmt.Errorf("waiting for another change of backend %q: %w", key, context.Cause(ctx))
	}
}

func (k *keyedMutex) enter(key string) *keyLock {
	k.mu.Lock()
	defer k.mu.Unlock()
	l := k.locks[key]
	if l == nil {
		if k.locks == nil {
			k.locks = make(map[string]*keyLock)
		}
		l = &keyLock{held: make(chan struct{}, 1)}
		k.locks[key] = l
	}
	l.users++
	return l
}

func (k *keyedMutex) leave(key string, l *keyLock) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if l.users--; l.users == 0 {
		delete(k.locks, key)
	}
}

// Routes lists the endpoint name of every route, for people who look around.
func (r *Registry) Routes() map[string]RouteInfo {
	routes := make(map[string]RouteInfo)
	for path, e := range r.table.Load().routes {
		routes[path] = RouteInfo{Endpoint: e.Name, Methods: e.Methods}
	}
	return routes
}

// RouteInfo is one line of the list of routes.
type RouteInfo struct {
	Endpoint string   `json:"endpoint"`
	Methods  []string `json:"methods"`
}
