package shoal

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/shoalserve/shoal/internal/front/rest"
	"github.com/shoalserve/shoal/internal/serving"
	"github.com/shoalserve/shoal/internal/telemetry"
)

// Options configure an App. The zero value is usable.
type Options struct {
	// Logger gets what operators should know; by default nothing is logged.
	Logger *slog.Logger
	// MaxBodyBytes bounds the body of an HTTP request. Default 10 MiB.
	MaxBodyBytes int64
	// MaxInflightBytes bounds the memory of all bodies that are still arriving.
	// Default 1 GiB.
	MaxInflightBytes int64
	// MaxConnections bounds the connections of ListenAndServe and Serve. Default 10,000.
	MaxConnections int
	// Auth, of NewAuth, tells who may ask what over HTTP; without one (nil) everybody
	// may ask all. Handles need no credential.
	Auth *Auth
	// TLS, of OpenTLS, is the certificate of ListenAndServe and Serve; without one (nil)
	// they are plain.
	TLS *TLS
	// ShutdownDelay is how long ListenAndServe and Serve go on as they did once their
	// context has ended, except that /readyz says that the server is not ready: load
	// balancers that notice late still get their answers. Close ends it. Default 0: new
	// queries are refused at once. The first of several listeners that is to stop says so
	// for all of them.
	ShutdownDelay time.Duration
}

// App holds backends and endpoints and serves them, over HTTP and to handles.
// Its methods may be called from any goroutine, at any time: queries in flight
// see all of a change or none of it.
type App struct {
	registry *serving.Registry
	metrics  *telemetry.Metrics
	front    *rest.Front
	log      *slog.Logger
	prober   *serving.Prober
	delay    time.Duration   // Options.ShutdownDelay
	closing  context.Context // ends with Close
	close    context.CancelFunc
}

// New returns an App with nothing deployed. Close it when done. It panics for an Auth or
// a TLS that was not made by NewAuth or OpenTLS: such an App would be open to all.
func New(opts Options) *App {
	log := opts.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	registry := serving.NewRegistry()
	registry.LogCanaries(log)
	metrics := telemetry.New()
	metrics.Watch(registry)
	limits := rest.Options{
		Logger: log, Metrics: metrics, MaxBodyBytes: opts.MaxBodyBytes, MaxInflightBytes: opts.MaxInflightBytes,
		MaxConnections: opts.MaxConnections, Auth: opts.Auth.authenticator(), TLS: opts.TLS.config(), Prober: serving.NewProber(registry),
	}
	app := &App{registry: registry, metrics: metrics, front: rest.New(registry, limits), log: log, prober: limits.Prober, delay: opts.ShutdownDelay}
	app.closing, app.close = context.WithCancel(context.Background())
	return app
}

// CreateBackend starts a model's replicas under a name and returns when they
// are ready. A name that exists already is [ErrAlreadyExists]; a model that
// cannot start is a *[LoadError].
func (a *App) CreateBackend(ctx context.Context, name string, model Model, config Config) error {
	return a.deploy(ctx, name, model, config, false)
}

// ReplaceBackend is CreateBackend for a name that may exist: when the new
// replicas are ready they take over its traffic, and the old ones finish what
// they accepted. If the new ones cannot start, the old ones go on.
func (a *App) ReplaceBackend(ctx context.Context, name string, model Model, config Config) error {
	return a.deploy(ctx, name, model, config, true)
}

func (a *App) deploy(ctx context.Context, name string, model Model, config Config, replace bool) error {
	_, err := a.registry.Deploy(ctx, name, replace, func(ctx context.Context) (serving.Backend, error) {
		internal, err := config.internal()
		if err != nil {
			return nil, err
		}
		if model == nil {
			return nil, serving.Errorf(serving.InvalidArgument, "backend %q: the model is nil; make one with Batch, Single or Stateful", name)
		}
		return model.start(ctx, name, internal, serving.Deps{Observer: a.metrics.Observer(name), Logger: a.log})
	})
	return err
}

// UpdateBackendConfig changes a backend's config while it serves: change is
// given the config in force. Limits apply at once; replicas are started or
// stopped without losing a query.
func (a *App) UpdateBackendConfig(ctx context.Context, name string, change func(*Config)) error {
	return a.registry.Reconfigure(ctx, name, func(old serving.Config) (serving.Config, error) {
		config := newConfig(old)
		change(&config)
		return config.internal()
	})
}

// DeleteBackend removes a backend and returns when its queries are answered. A
// backend that an endpoint uses is [ErrInUse]; one that does not exist is no error.
func (a *App) DeleteBackend(ctx context.Context, name string) error {
	return a.registry.Delete(ctx, name)
}

// Backends lists the backends in the order of their names.
func (a *App) Backends() []BackendInfo {
	var infos []BackendInfo
	for _, s := range a.registry.BackendStatuses() {
		infos = append(infos, BackendInfo{
			Name: s.Name, State: string(s.State), Config: newConfig(s.Config), Queued: s.Queued, Running: s.Running,
			Answered: s.Stats.Answered, Failed: s.Stats.Failed, Batches: s.Stats.Batches, BatchSizes: s.Stats.BatchSizes,
			Reasons: s.Stats.Reasons, Verified: s.Verified,
		})
	}
	return infos
}

// BackendInfo tells what a backend does.
type BackendInfo struct {
	Name             string
	State            string // starting, ready, draining, failed, crash_looping or idle
	Config           Config
	Queued, Running  int    // queries, at this moment
	Answered, Failed uint64 // queries, since it was created
	Batches          uint64
	BatchSizes       map[int]uint64    // batches by their number of queries
	Reasons          map[string]uint64 // batches by why they left when they did
	Verified         Verified          // queries, by Config.VerifyOneIn
}

// Verified counts the live queries that were computed a second time, alone: whose
// answers were the Same or Different; Skipped, since no replica was idle for them, too many
// waited, or they were too large; Failed. LargestDifference is that of two numbers,
// Samples are the last few differences, in words.
type Verified = serving.VerifiedStatus

// Endpoint describes a new endpoint.
type Endpoint struct {
	// Backend takes all of the first traffic.
	Backend string
	// Route is the exact path that HTTP queries ask for; empty for an endpoint
	// that only handles reach.
	Route string
	// Methods are the HTTP methods of the route. Default GET.
	Methods []string
	// Example, if given, is computed before /readyz says that the server is ready.
	Example *Example
}

// Example is an HTTP query that shows whether an endpoint works.
type Example struct {
	Query map[string]any // query parameters
	JSON  any            // body, written as JSON
}

// CreateEndpoint makes an endpoint. The same one again is no error; another one
// of that name or route is [ErrAlreadyExists].
func (a *App) CreateEndpoint(name string, e Endpoint) error {
	spec := serving.EndpointSpec{Backend: e.Backend, Route: e.Route, Methods: e.Methods}
	if e.Example != nil {
		example, err := e.Example.internal()
		if err != nil {
			return fmt.Errorf("endpoint %q: %w", name, err)
		}
		spec.Example = example
	}
	_, err := a.registry.CreateEndpoint(name, spec)
	return err
}

// DeleteEndpoint removes an endpoint and leaves its backends alone. One that
// does not exist is no error.
func (a *App) DeleteEndpoint(name string) error { return a.registry.DeleteEndpoint(name) }

// EndpointInfo tells what an endpoint is.
type EndpointInfo struct {
	Name    string
	Route   string
	Methods []string
	Traffic Traffic
	Shadows Traffic // proportions; they need not sum to 1
}

// Endpoints lists the endpoints in the order of their names.
func (a *App) Endpoints() []EndpointInfo {
	var infos []EndpointInfo
	for _, s := range a.registry.EndpointStatuses() {
		infos = append(infos, EndpointInfo{Name: s.Name, Route: s.Route, Methods: s.Methods, Traffic: s.Traffic, Shadows: s.Shadows})
	}
	return infos
}

// Traffic is the share of an endpoint's queries that each backend gets.
type Traffic map[string]float64

// SetTraffic splits an endpoint's traffic. Weights are not negative and sum to 1.
func (a *App) SetTraffic(endpoint string, weights Traffic) error {
	return a.registry.SetTraffic(endpoint, weights)
}

// ShadowTraffic sends a copy of a proportion, 0 to 1, of an endpoint's queries
// to a backend and drops its answers. 0 stops it.
func (a *App) ShadowTraffic(endpoint, backend string, proportion float64) error {
	return a.registry.Shadow(endpoint, backend, proportion)
}

// Handler returns the HTTP front as a handler, to be part of another server.
func (a *App) Handler() http.Handler { return a.front.Handler() }

// ListenAndServe serves HTTP/1.1 and HTTP/2, with Options.TLS or in the clear, on an
// address until ctx ends, and for Options.ShutdownDelay after it; then it refuses new
// queries, finishes the accepted ones and returns nil.
func (a *App) ListenAndServe(ctx context.Context, address string) error {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return fmt.Errorf("listening for HTTP: %w", err)
	}
	return a.Serve(ctx, listener)
}

// Serve is ListenAndServe on a listener, which it closes.
func (a *App) Serve(ctx context.Context, listener net.Listener) error {
	if a.delay <= 0 {
		return a.front.Serve(ctx, listener)
	}
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	var lingering sync.WaitGroup
	defer lingering.Wait()
	defer stop()
	lingering.Go(func() {
		defer stop()
		a.linger(running, ctx)
	})
	return a.front.Serve(running, listener)
}

// linger returns when no new queries are to be taken any more: ShutdownDelay after asked
// has ended, or when running has, or the App is closed.
func (a *App) linger(running, asked context.Context) {
	select {
	case <-asked.Done():
	case <-running.Done():
		return
	}
	until, cancel := context.WithCancel(running)
	defer cancel()
	defer context.AfterFunc(a.closing, cancel)()
	a.prober.Linger(until, a.delay, a.log)
}

// Close refuses new queries, finishes the accepted ones and stops every
// replica. When ctx ends first, what is left fails.
func (a *App) Close(ctx context.Context) error {
	a.close()
	return a.registry.Close(ctx)
}
