package serving

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"math"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/shoalserve/shoal/batch"
)

// Example is a web request that the readiness probe sends to an endpoint.
type Example struct {
	Method  string            `json:"method,omitempty"`
	Query   map[string]any    `json:"query,omitempty"`
	Headers map[string]string `json:"headers,omitempty"`
	JSON    json.RawMessage   `json:"json,omitempty"`
	Text    string            `json:"text,omitempty"`
}

// EndpointSpec describes a new endpoint.
type EndpointSpec struct {
	// Backend takes all of the first traffic, unless Traffic splits it.
	Backend string             `json:"backend"`
	Traffic map[string]float64 `json:"-"`
	// Shadows are the proportions that shadows get.
	Shadows map[string]float64 `json:"-"`
	// Route is the exact path of web queries, beginning with "/"; empty for an
	// endpoint that only handles reach.
	Route string `json:"route,omitempty"`
	// Methods are the HTTP methods that the route takes; default GET.
	Methods []string `json:"methods,omitempty"`
	// Example, if given, is computed before the server says it is ready.
	Example *Example `json:"example,omitempty"`
	// Canary, in a [Plan], takes the endpoint's traffic over.
	Canary *CanarySpec `json:"-"`
}

// Endpoint is a snapshot of where the queries of one name go. It never changes;
// a change of traffic makes a new one.
type Endpoint struct {
	Name    string
	Route   string
	Methods []string
	Allow   string // what Takes takes, as the Allow header wants it
	Example *Example

	registry *Registry
	traffic  []share
	shadows  []share
	prompt   bool
	watch    *watch // nil unless a canary runs
}

// share is a backend's part of an endpoint's traffic.
type share struct {
	backend Backend
	weight  float64
	upTo    float64 // the sum of the weights up to and including this one

	comparison *comparison // of a shadow's answers; nil: they are dropped
}

// Takes reports whether the endpoint's route takes the HTTP method. A route
// that takes GET takes HEAD too.
func (e *Endpoint) Takes(method string) bool {
	return slices.Contains(e.Methods, method) || (method == http.MethodHead && slices.Contains(e.Methods, http.MethodGet))
}

// allow lists the methods that a route takes.
func allow(methods []string) string {
	if slices.Contains(methods, http.MethodGet) && !slices.Contains(methods, http.MethodHead) {
		methods = slices.Sorted(slices.Values(append([]string{http.MethodHead}, methods...)))
	}
	return strings.Join(methods, ", ")
}

// Backends returns the backends that get traffic.
func (e *Endpoint) Backends() []Backend {
	var backends []Backend
	for _, s := range e.traffic {
		if s.weight > 0 {
			backends = append(backends, s.backend)
		}
	}
	return backends
}

// Pick chooses a backend by the traffic's weights: at random, or, with a shard
// key, always the same one while the traffic stays the same.
func (e *Endpoint) Pick(shardKey string) Backend {
	if len(e.traffic) == 1 {
		return e.traffic[0].backend
	}
	draw := e.draw(shardKey)
	for _, s := range e.traffic {
		if draw < s.upTo {
			return s.backend
		}
	}
	return e.traffic[len(e.traffic)-1].backend
}

func (e *Endpoint) draw(shardKey string) float64 {
	if shardKey == "" {
		return rand.Float64()
	}
	// A hash that is even for short keys too, and the same in every process.
	h := sha256.Sum256([]byte(shardKey))
	return float64(binary.BigEndian.Uint64(h[:])>>11) / (1 << 53)
}

// Try calls submit with the backend that the traffic chooses. If that backend
// is draining because it was replaced since this snapshot was taken, it tries
// again with the one that took its place.
func (e *Endpoint) Try(shardKey string, submit func(Backend) error) error {
	for {
		err := submit(e.Pick(shardKey))
		if err == nil || !errors.Is(err, batch.ErrDraining) {
			return err
		}
		now, lookup := e.registry.Endpoint(e.Name)
		if lookup != nil || now == e {
			return err
		}
		e = now
	}
}

// HasShadows reports whether some queries are copied to shadows.
func (e *Endpoint) HasShadows() bool { return len(e.shadows) > 0 }

// Shadows calls submit for each backend that is to get a copy of a query. The
// context has what time that backend allows, not the caller's, who may leave
// earlier; submit sees to it that cancel is called when the copy is done with.
func (e *Endpoint) Shadows(submit func(ctx context.Context, cancel context.CancelFunc, b Backend)) {
	for _, s := range e.shadows {
		if rand.Float64() < s.weight {
			ctx, cancel := context.WithTimeout(context.Background(), time.Duration(s.backend.Config().Timeout))
			submit(ctx, cancel, s.backend)
		}
	}
}

// Submit brings a call to the backend that the traffic chooses, and copies of
// it to the shadows. Its errors are those of [Backend.Submit].
func (e *Endpoint) Submit(call *Call) error {
	_, err := e.Send(call)
	return err
}

// Send is Submit that tells which backend took the call, for callers whose call
// may be done, and used again, before Send returns.
func (e *Endpoint) Send(call *Call) (Backend, error) {
	var taker Backend
	submit := func(b Backend) error {
		taker, call.Backend = b, b
		return b.Submit(call)
	}
	if e.watch == nil && len(e.shadows) == 0 {
		err := e.Try(call.ShardKey, submit)
		return taker, err
	}
	copies := e.copies()
	w, pairs := e.watched(copies)
	submit = func(b Backend) error {
		taker, call.Backend, call.watched = b, b, w
		if w != nil {
			w.backend = b.Name()
		}
		return b.Submit(call)
	}
	original := Call{
		Origin: call.Origin, Request: call.Request, Args: call.Args, Method: call.Method, Caller: call.Caller, Priority: call.Priority,
	}
	if err := e.Try(call.ShardKey, submit); err != nil {
		if w != nil {
			call.watched = nil
			w.ended(blamed(err, 0))
		}
		return taker, err
	}
	for i, s := range copies {
		s.copy(&original, pairs[i])
	}
	return taker, nil
}

// copies are the shadows that get a copy of a query.
func (e *Endpoint) copies() (chosen []share) {
	for _, s := range e.shadows {
		if rand.Float64() < s.weight {
			chosen = append(chosen, s)
		}
	}
	return chosen
}

// watched is what a call carries whose end is to be counted or compared, and
// its pairs by its copies; nil for a call that is neither.
func (e *Endpoint) watched(copies []share) (w *watched, pairs []*pair) {
	pairs = make([]*pair, len(copies))
	for i, s := range copies {
		if s.comparison == nil {
			continue
		}
		if pairs[i] = s.comparison.begin(); pairs[i] != nil {
			if w == nil {
				w = &watched{}
			}
			w.pairs = append(w.pairs, pairs[i])
		}
	}
	if w == nil && e.watch != nil {
		w = &watched{}
	}
	if w != nil {
		w.watch = e.watch
	}
	return w, pairs
}

// copy sends a copy of a call to the shadow, whose answer is the pair's, if
// there is one. It has what time the shadow allows, not the caller's, who may
// leave earlier.
func (s share) copy(original *Call, p *pair) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(s.backend.Config().Timeout))
	copied := *original
	copied.Context, copied.Backend = ctx, s.backend
	copied.Done = func(c *Call) {
		cancel()
		if p != nil {
			p.set(1, c)
		}
	}
	if s.backend.Submit(&copied) != nil {
		cancel() // a shadow that is full counts it in its own metrics
		if p != nil {
			p.abandon()
		}
	}
}

// Watch returns what is to be told of each query's end that came by a typed
// handle; nil while no canary runs.
func (e *Endpoint) Watch() func(backend string, err error, trip batch.Trip) {
	if e.watch == nil {
		return nil
	}
	return func(backend string, err error, trip batch.Trip) {
		e.watch.count(backend, err != nil && blamed(err, 0), trip)
	}
}

// Prompt reports whether Submit returns soon, whatever the model: no backend of the
// endpoint's runs code of the user's in it.
func (e *Endpoint) Prompt() bool { return e.prompt }

// Timeout is the least that one of the endpoint's backends allows.
func (e *Endpoint) Timeout() time.Duration {
	least := time.Duration(math.MaxInt64)
	for _, s := range e.traffic {
		least = min(least, time.Duration(s.backend.Config().Timeout))
	}
	return least
}

func arePrompt(shares []share) bool {
	return !slices.ContainsFunc(shares, func(s share) bool {
		b, ok := s.backend.(interface{ Prompt() bool })
		return !ok || !b.Prompt()
	})
}

func (e *Endpoint) status() EndpointStatus {
	s := EndpointStatus{
		Name: e.Name, Route: e.Route, Methods: e.Methods, Example: e.Example,
		Traffic: map[string]float64{}, Shadows: map[string]float64{},
	}
	for _, share := range e.traffic {
		s.Traffic[share.backend.Name()] = share.weight
	}
	for _, share := range e.shadows {
		s.Shadows[share.backend.Name()] = share.weight
	}
	return s
}

func (e *Endpoint) uses(backend string) bool {
	is := func(s share) bool { return s.backend.Name() == backend }
	return slices.ContainsFunc(e.traffic, is) || slices.ContainsFunc(e.shadows, is)
}

// replaced returns the endpoint with one backend exchanged for its new version.
func (e *Endpoint) replaced(next Backend) *Endpoint {
	swap := func(shares []share) []share {
		shares = slices.Clone(shares)
		for i := range shares {
			if shares[i].backend.Name() == next.Name() {
				shares[i].backend = next
			}
		}
		return shares
	}
	c := *e
	c.traffic, c.shadows = swap(e.traffic), swap(e.shadows)
	return &c
}

// newTraffic checks weights and lays them out in the order of the names.
func newTraffic(weights map[string]float64, backends map[string]Backend) ([]share, error) {
	if len(weights) == 0 {
		return nil, Errorf(InvalidArgument, "traffic: no backend given")
	}
	var shares []share
	sum := 0.0
	for name, weight := range weights {
		backend, ok := backends[name]
		if !ok {
			return nil, backendNotFound(name, backends)
		}
		if weight < 0 || math.IsNaN(weight) {
			return nil, Errorf(InvalidArgument, "traffic: weight of backend %q must be between 0 and 1, got %v", name, weight)
		}
		shares = append(shares, share{backend: backend, weight: weight})
	}
	slices.SortFunc(shares, func(a, b share) int { return strings.Compare(a.backend.Name(), b.backend.Name()) })
	last := 0 // that gets traffic
	for i := range shares {
		sum += shares[i].weight
		shares[i].upTo = sum
		if shares[i].weight > 0 {
			last = i
		}
	}
	if math.Abs(sum-1) > 1e-8 {
		return nil, Errorf(InvalidArgument, "traffic: weights must sum to 1, got %v", sum)
	}
	shares[last].upTo = 1 // what rounding left open must not go to one without traffic
	return shares, nil
}

// shares are a new endpoint's traffic and shadows.
func (s *EndpointSpec) shares(backends map[string]Backend) (traffic, shadows []share, err error) {
	weights := s.Traffic
	if weights == nil {
		weights = map[string]float64{s.Backend: 1}
	}
	if traffic, err = newTraffic(weights, backends); err != nil {
		return nil, nil, err
	}
	for backend, proportion := range s.Shadows {
		if shadows, err = withShadow(shadows, backend, proportion, backends); err != nil {
			return nil, nil, err
		}
	}
	return traffic, shadows, nil
}

// withShadow returns the shadows with one changed; a proportion of 0 takes it out.
func withShadow(shadows []share, backend string, proportion float64, backends map[string]Backend) ([]share, error) {
	if !(proportion >= 0 && proportion <= 1) {
		return nil, Errorf(InvalidArgument, "shadow traffic: proportion must be between 0 and 1, got %v", proportion)
	}
	b, ok := backends[backend]
	if !ok {
		return nil, backendNotFound(backend, backends)
	}
	shadows = slices.DeleteFunc(slices.Clone(shadows), func(s share) bool { return s.backend.Name() == backend })
	if proportion > 0 {
		shadows = append(shadows, share{backend: b, weight: proportion})
	}
	return shadows, nil
}

// compareShadow has the answers of a shadow compared, or with nil not any more. The
// shadows must be the endpoint's own copy.
func (e *Endpoint) compareShadow(backend string, with *comparison) {
	for i := range e.shadows {
		if e.shadows[i].backend.Name() == backend {
			e.shadows[i].comparison = with
		}
	}
}

var knownMethods = []string{
	http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions,
}

// KnownMethod returns the HTTP method that a request begins with, if it is one of
// those that a route may take, else "".
func KnownMethod(method []byte) string {
	for _, known := range knownMethods {
		if string(method) == known {
			return known
		}
	}
	return ""
}

// Check fills the defaults of a spec and refuses what cannot be served.
func (s *EndpointSpec) Check() error {
	if s.Example != nil {
		if err := s.Example.check(); err != nil {
			return err
		}
	}
	if s.Route != "" {
		u, err := url.Parse(s.Route)
		switch {
		case !strings.HasPrefix(s.Route, "/"):
			return Errorf(InvalidArgument, "route %q must begin with \"/\"", s.Route)
		case err != nil || u.Path != s.Route:
			return Errorf(InvalidArgument, "route %q must be a plain path, without query, fragment or escapes", s.Route)
		case strings.HasPrefix(s.Route, "/-/"), slices.Contains([]string{"/livez", "/readyz", "/metrics", "/openapi.json"}, s.Route):
			return Errorf(InvalidArgument, "route %q is reserved for the server itself", s.Route)
		}
	}
	if len(s.Methods) == 0 {
		s.Methods = []string{http.MethodGet}
	}
	s.Methods = slices.Clone(s.Methods)
	for i, m := range s.Methods {
		s.Methods[i] = strings.ToUpper(m)
		if !slices.Contains(knownMethods, s.Methods[i]) {
			return Errorf(InvalidArgument, "method %q is none of %s", m, strings.Join(knownMethods, ", "))
		}
	}
	slices.Sort(s.Methods)
	s.Methods = slices.Compact(s.Methods)
	return nil
}
