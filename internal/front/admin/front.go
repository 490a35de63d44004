package admin

import (
	"cmp"
	"context"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/shoalserve/shoal/internal/artifact"
	"github.com/shoalserve/shoal/internal/runtime/python"
	"github.com/shoalserve/shoal/internal/serving"
)

// Deployer makes backends of Python models.
type Deployer interface {
	// Backend returns when the backend is ready, or with a *serving.LoadError.
	// When ctx ends first it gives up.
	Backend(ctx context.Context, name string, spec python.Spec, config serving.Config) (serving.Backend, error)
}

// Options are what a Front works with. Only Registry is required; calls that
// need what is missing are refused.
type Options struct {
	Registry *serving.Registry
	// Prober decides what the status calls ready; default one of Registry.
	Prober    *serving.Prober
	Deployer  Deployer
	Artifacts artifact.Store
	Logs      Logs
	// Token is what TCP clients must bring. Without one, only Unix sockets are
	// served. Unix sockets are guarded by their mode and need no token.
	Token string
	// Version is the server's, for the status.
	Version string
	// HTTPAddress returns where web queries are served, for the status.
	HTTPAddress func() string
	Logger      *slog.Logger
	// MaxArtifactBytes bounds an upload. Default 2 GiB.
	MaxArtifactBytes int64
	// ShutdownTimeout bounds how long Serve waits for accepted queries after
	// its context ended. Default 30s.
	ShutdownTimeout time.Duration
	// Reload reads again what the server was started with.
	Reload Reload
}

func (o Options) withDefaults() Options {
	if o.Prober == nil {
		o.Prober = serving.NewProber(o.Registry)
	}
	if o.HTTPAddress == nil {
		o.HTTPAddress = func() string { return "" }
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	o.MaxArtifactBytes = cmp.Or(o.MaxArtifactBytes, 2<<30)
	o.ShutdownTimeout = cmp.Or(o.ShutdownTimeout, 30*time.Second)
	return o
}

// Front serves the admin API and links. It is made for one run: once a Serve
// has ended, links are refused.
type Front struct {
	opts    Options
	started time.Time
	mux     *http.ServeMux

	// draining ends when the server shuts down, with the reason as its cause.
	draining context.Context
	drain    context.CancelCauseFunc

	mu     sync.Mutex
	closed bool               // no more links
	links  map[*link]struct{} // open links
	open   sync.WaitGroup     // counts links
}

// New returns a Front for the options.
func New(opts Options) *Front {
	f := &Front{opts: opts.withDefaults(), started: time.Now(), mux: http.NewServeMux(), links: make(map[*link]struct{})}
	f.draining, f.drain = context.WithCancelCause(context.Background())
	for pattern, call := range map[string]func(http.ResponseWriter, *http.Request) error{
		"GET /v1/status":                   f.status,
		"POST /v1/artifacts":               f.upload,
		"PUT /v1/backends/{name}":          f.deploy,
		"GET /v1/backends":                 f.listBackends,
		"GET /v1/backends/{name}":          f.getBackend,
		"PATCH /v1/backends/{name}/config": f.updateConfig,
		"DELETE /v1/backends/{name}":       f.deleteBackend,
		"PUT /v1/endpoints/{name}":         f.createEndpoint,
		"GET /v1/endpoints":                f.listEndpoints,
		"GET /v1/endpoints/{name}":         f.getEndpoint,
		"DELETE /v1/endpoints/{name}":      f.deleteEndpoint,
		"PUT /v1/endpoints/{name}/traffic": f.setTraffic,
		"PUT /v1/endpoints/{name}/shadow":  f.setShadow,
		"POST /v1/endpoints/{name}/query":  f.query,
		"GET /v1/logs":                     f.logs,
		"GET /v1/link":                     f.link,
		"POST /v1/reload":                  f.reload,
	} {
		f.mux.HandleFunc(pattern, f.handle(call))
	}
	return f
}
