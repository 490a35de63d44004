package rest

import (
	"context"
	"encoding/json"
	"log/slog"
	"maps"
	"net/http"
	"sync"
	"time"

	"github.com/shoalserve/shoal/internal/auth"
	"github.com/shoalserve/shoal/internal/front/problem"
	"github.com/shoalserve/shoal/internal/serving"
)

// ownPaths are the paths that the server answers itself.
func (f *Front) ownPaths() *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { writeText(w, "ok\n") })
	mux.HandleFunc("GET /readyz", f.readyz)
	mux.HandleFunc("GET /-/routes", f.routes)
	mux.HandleFunc("GET /openapi.json", f.openAPI)
	mux.Handle("GET /metrics", f.opts.Metrics.Handler())
	return mux
}

func writeText(w http.ResponseWriter, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = w.Write([]byte(text)) // a client that is gone cannot be told so
}

func (f *Front) readyz(w http.ResponseWriter, r *http.Request) {
	if err := f.ready.check(r.Context()); err != nil {
		if f.opts.Auth != nil { // names and errors are not for everybody
			err = serving.Errorf(serving.Unavailable, "not ready; `shoal status` and the server's log say why")
		}
		problem.Of(err).Write(w)
		return
	}
	writeText(w, "ready\n")
}

func (f *Front) routes(w http.ResponseWriter, r *http.Request) {
	routes := f.registry.Routes()
	if who, asked := r.Context().Value(callerKey{}).(*auth.Identity); asked {
		maps.DeleteFunc(routes, func(_ string, to serving.RouteInfo) bool { return !who.Reaches(to.Endpoint) })
	}
	w.Header().Set("Content-Type", "application/json")
	out := json.NewEncoder(w)
	out.SetIndent("", "  ")
	_ = out.Encode(routes) // a client that is gone cannot be told so
}

// probeTimeout bounds one look at what is ready.
const probeTimeout = 5 * time.Second

// readiness asks the prober for all who want to know at a time, once.
type readiness struct {
	prober *serving.Prober
	log    *slog.Logger

	mu      sync.Mutex
	current *probe
	said    string // why it was not ready, the last time
}

// probe is one look, under way or done.
type probe struct {
	done chan struct{}
	err  error // set before done is closed
}

func newReadiness(p *serving.Prober, log *slog.Logger) *readiness {
	return &readiness{prober: p, log: log}
}

func (r *readiness) check(ctx context.Context) error {
	r.mu.Lock()
	p := r.current
	if p == nil {
		p = &probe{done: make(chan struct{})}
		r.current = p
		go r.run(p) // ends within probeTimeout
	}
	r.mu.Unlock()
	select {
	case <-p.done:
		return p.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (r *readiness) run(p *probe) {
	ctx, cancel := context.WithTimeout(context.Background(), probeTimeout)
	defer func() {
		cancel()
		if v := recover(); v != nil { // of a backend; nothing else stands between it and the process
			p.err = serving.Errorf(serving.Unavailable, "the probe panicked: %v", v)
		}
		r.mu.Lock()
		r.current = nil
		r.say(p.err)
		r.mu.Unlock()
		close(p.done)
	}()
	p.err = r.prober.Ready(ctx)
}

// say logs a reason for not being ready when it is another than before. mu is held.
func (r *readiness) say(err error) {
	why := ""
	if err != nil {
		why = err.Error()
	}
	if why != "" && why != r.said {
		r.log.Warn("the server is not ready", "reason", why)
	}
	r.said = why
}
