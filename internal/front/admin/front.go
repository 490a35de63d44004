package admin

import (
	"cmp"
	"context"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/shoalserve/shoal/internal/artifact"
	"github.com/shoalserve/shoal/internal/auth"
	"github.com/shoalserve/shoal/internal/front/door"
	"github.com/shoalserve/shoal/internal/front/problem"
	"github.com/shoalserve/shoal/internal/runtime/python"
	"github.com/shoalserve/shoal/internal/serving"
)

// Deployer makes backends of Python models.
type Deployer interface {
	// Redeploy returns when the backend is ready, or with a *serving.LoadError.
	// When ctx ends first it gives up. It may have old, the one that has the name, if any, take
	// the new version over.
	Redeploy(ctx context.Context, old serving.Backend, name string, spec python.Spec, config serving.Config) (serving.Backend, error)
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
	// Token is a credential that allows everything. TCP clients must bring it, or
	// one that Auth knows; without both, only Unix sockets are served. Those are
	// guarded by their mode and need no credential.
	Token string
	Auth  *auth.Authenticator
	// Audit gets a line for each change, and each attempt at one. Default Logger.
	Audit *slog.Logger
	// Denied counts a request that was not let in.
	Denied func(reason string)
	// NoPickle refuses pickles, which run code where they are read: as models, and
	// as queries.
	NoPickle bool
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
	// MaxInflightBytes bounds the memory of what is still arriving by TCP, and by Unix
	// sockets once more: strangers, and callers with other rights, must not keep the
	// owner out. Default 1 GiB.
	MaxInflightBytes int64
	// Refused counts what there was no room for.
	Refused func(reason string)
	// MaxConnections bounds the connections on TCP. Default 1,000.
	MaxConnections int
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
	if o.Audit == nil {
		o.Audit = o.Logger
	}
	if o.Denied == nil {
		o.Denied = func(string) {}
	}
	if o.Refused == nil {
		o.Refused = func(string) {}
	}
	o.MaxConnections = cmp.Or(o.MaxConnections, 1000)
	o.MaxArtifactBytes = cmp.Or(o.MaxArtifactBytes, 2<<30)
	o.ShutdownTimeout = cmp.Or(o.ShutdownTimeout, 30*time.Second)
	return o
}

// call is a call of the admin API.
type call struct {
	// run may fail before it wrote anything.
	run func(http.ResponseWriter, *http.Request) error
	// change is what it changes, in the words of the audit log; empty for nothing.
	change string
	scopes []auth.Scope // one of which its caller must have
}

// Who may make calls, beside those with the scope admin.
var (
	everybody = []auth.Scope{auth.Query, auth.Deploy} // who sees what he may ask or deploy
	askers    = []auth.Scope{auth.Query}
	deployers = []auth.Scope{auth.Deploy}
	admins    = []auth.Scope{auth.Admin}
)

// Front serves the admin API and links. It is made for one run: once a Serve
// has ended, links are refused.
type Front struct {
	opts     Options
	failures *problem.Failures
	started  time.Time
	mux      *http.ServeMux
	calls    map[string]call // by their patterns

	strangers lines       // about them in the audit log
	denied    deniedLines // about callers that are known

	token atomic.Pointer[token]

	// draining ends when the server shuts down, with the reason as its cause.
	draining context.Context
	drain    context.CancelCauseFunc

	connections *door.Connections // on TCP
	arriving    *door.Bytes       // by TCP
	owners      *door.Bytes       // by Unix sockets

	mu     sync.Mutex
	closed bool               // no more links
	links  map[*link]struct{} // open links
	open   sync.WaitGroup     // counts links
}

// New returns a Front for the options.
func New(opts Options) *Front {
	f := &Front{opts: opts.withDefaults(), started: time.Now(), mux: http.NewServeMux(), links: make(map[*link]struct{})}
	f.arriving, f.owners = door.NewBytes(f.opts.MaxInflightBytes), door.NewBytes(f.opts.MaxInflightBytes)
	f.failures = problem.NewFailures(f.opts.Logger)
	refused := func() { f.opts.Refused("connections") }
	f.connections = door.NewConnections(int64(f.opts.MaxConnections), nil, refused, f.opts.Logger)
	f.draining, f.drain = context.WithCancelCause(context.Background())
	f.SetToken(f.opts.Token)
	f.strangers.limit = rate.NewLimiter(strangersRate, strangersBurst)
	f.calls = f.allCalls()
	for pattern, c := range f.calls {
		f.mux.HandleFunc(pattern, f.handle(c))
	}
	return f
}

// allCalls are the calls of the admin API by the patterns of [http.ServeMux].
func (f *Front) allCalls() map[string]call {
	return map[string]call{
		"GET /v1/status":                   {f.status, "", everybody},
		"POST /v1/artifacts":               {f.upload, "upload artifact", deployers},
		"PUT /v1/backends/{name}":          {f.deploy, "deploy backend", deployers},
		"GET /v1/backends":                 {f.listBackends, "", deployers},
		"GET /v1/backends/{name}":          {f.getBackend, "", deployers},
		"PATCH /v1/backends/{name}/config": {f.updateConfig, "update backend", deployers},
		"DELETE /v1/backends/{name}":       {f.deleteBackend, "delete backend", deployers},
		"PUT /v1/endpoints/{name}":         {f.createEndpoint, "create endpoint", deployers},
		"GET /v1/endpoints":                {f.listEndpoints, "", everybody},
		"GET /v1/endpoints/{name}":         {f.getEndpoint, "", everybody},
		"DELETE /v1/endpoints/{name}":      {f.deleteEndpoint, "delete endpoint", deployers},
		"PUT /v1/endpoints/{name}/traffic": {f.setTraffic, "set traffic", deployers},
		"PUT /v1/endpoints/{name}/shadow":  {f.setShadow, "set shadow traffic", deployers},
		"PUT /v1/endpoints/{name}/canary":  {f.startCanary, "start canary", deployers},
		"POST /v1/endpoints/{name}/query":  {f.query, "", askers},
		"POST /v1/endpoints/{name}/verify": {f.verify, "", deployers},
		"GET /v1/logs":                     {f.logs, "", admins},
		"GET /v1/link":                     {f.link, "", askers},
		"POST /v1/reload":                  {f.reload, "reload", admins},

		"DELETE /v1/endpoints/{name}/canary":       {f.abortCanary, "abort canary", deployers},
		"POST /v1/endpoints/{name}/canary/promote": {f.promoteCanary, "promote canary", deployers},
	}
}
