package serving

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/shoalserve/shoal/batch"
)

// Prober finds out whether every endpoint that declares an example can compute
// it, through the same batch path as any query. A backend that has proved
// itself once is not asked again.
type Prober struct {
	registry *Registry

	mu      sync.Mutex
	proved  map[probe]bool
	holding []string // why nothing is ready; empty when nothing holds
}

// probe is one thing to prove. Backends, their versions and examples are compared by
// identity: a new version or a new example must prove itself anew.
type probe struct {
	backend Backend
	version any // of a backend that tells it
	example *Example
}

// versionOf is what a backend's replicas run now, where it tells.
func versionOf(b Backend) any {
	if v, ok := b.(interface{ Version() any }); ok {
		return v.Version()
	}
	return nil
}

// NewProber returns a Prober for what is deployed in r.
func NewProber(r *Registry) *Prober {
	return &Prober{registry: r, proved: make(map[probe]bool)}
}

// Hold makes Ready say that nothing is ready, and why, until release is called.
func (p *Prober) Hold(why string) (release func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.holding = append(p.holding, why)
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if i := slices.Index(p.holding, why); i >= 0 {
			p.holding = slices.Delete(p.holding, i, i+1)
		}
	}
}

// Held reports whether something holds.
func (p *Prober) Held() bool { return p.held() != "" }

func (p *Prober) held() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.holding) == 0 {
		return ""
	}
	return p.holding[len(p.holding)-1] // the last word
}

// Linger makes Ready say from now on that the server is about to stop, and returns when
// new queries are to be refused: after the delay, or when ctx ends. So long, load
// balancers that have not asked yet get their answers.
func (p *Prober) Linger(ctx context.Context, delay time.Duration, log *slog.Logger) {
	p.Hold("the server is about to stop")
	if delay <= 0 {
		return
	}
	log.Info("not ready any more; new queries are still taken for a while", "shutdown_delay", delay)
	over := time.NewTimer(delay)
	defer over.Stop()
	select {
	case <-over.C:
	case <-ctx.Done():
	}
}

// Ready returns nil when every backend that gets traffic has a ready replica
// and every example was computed; else what is missing.
func (p *Prober) Ready(ctx context.Context) error {
	if why := p.held(); why != "" {
		return Errorf(Unavailable, "%s", why)
	}
	wanted := make(map[probe]*Endpoint)
	for _, e := range p.registry.Endpoints() {
		for _, b := range e.Backends() {
			if s := b.Status(); s.State != StateReady && s.State != StateIdle {
				return Errorf(Unavailable, "endpoint %q: backend %q is %s%s", e.Name, b.Name(), s.State, s.why())
			}
			if e.Example != nil {
				wanted[probe{b, versionOf(b), e.Example}] = e
			}
		}
	}
	for w, endpoint := range wanted {
		if err := p.prove(ctx, w, endpoint); err != nil {
			return Errorf(Unavailable, "endpoint %q: backend %q did not compute its example: %v", endpoint.Name, w.backend.Name(), err)
		}
	}
	p.forgetAllBut(wanted)
	return nil
}

func (p *Prober) prove(ctx context.Context, w probe, e *Endpoint) error {
	p.mu.Lock()
	proved := p.proved[w]
	p.mu.Unlock()
	if proved {
		return nil
	}
	request := w.example.request(e.Route, e.Methods)
	done := make(chan struct{})
	call := &Call{Context: ctx, Origin: batch.Web, Request: request, Done: func(*Call) { close(done) }}
	if err := w.backend.Submit(call); err != nil {
		return err
	}
	select {
	case <-done:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if call.Err != nil {
		return call.Err
	}
	if call.Response.Status >= http.StatusBadRequest {
		return fmt.Errorf("it answered with status %d", call.Response.Status)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.proved[w] = true
	return nil
}

func (p *Prober) forgetAllBut(wanted map[probe]*Endpoint) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for w := range p.proved {
		if _, ok := wanted[w]; !ok {
			delete(p.proved, w)
		}
	}
}

// check refuses an example that no client could send.
func (e *Example) check() error {
	switch {
	case e.JSON != nil && e.Text != "":
		return Errorf(InvalidArgument, "an example has json or text, not both")
	case e.JSON != nil && !json.Valid(e.JSON):
		return Errorf(InvalidArgument, "the example's json is not JSON")
	case e.Method != "" && !slices.Contains(knownMethods, strings.ToUpper(e.Method)):
		return Errorf(InvalidArgument, "the example's method %q is none of %s", e.Method, strings.Join(knownMethods, ", "))
	}
	for name, value := range e.Headers {
		if !httpguts.ValidHeaderFieldName(name) || !httpguts.ValidHeaderFieldValue(value) {
			return Errorf(InvalidArgument, "the example's header %q: %q is none that a request can have", name, value)
		}
	}
	return nil
}

// request turns an example into the web query that a client would send to an
// endpoint. Without a route, it asks for "/".
func (e *Example) request(route string, methods []string) *Request {
	r := &Request{ID: "readiness-probe", Header: make(http.Header)}
	values := make(url.Values)
	for name, value := range e.Query {
		values.Set(name, fmt.Sprint(value))
	}
	r.Target = (&url.URL{Path: cmp.Or(route, "/"), RawQuery: values.Encode()}).RequestURI()
	switch {
	case e.JSON != nil:
		r.Body = e.JSON
		r.Header.Set("Content-Type", "application/json")
	case e.Text != "":
		r.Body = []byte(e.Text)
		r.Header.Set("Content-Type", "text/plain; charset=utf-8")
	}
	for name, value := range e.Headers {
		r.Header.Set(name, value)
	}
	r.Method = strings.ToUpper(cmp.Or(e.Method, defaultMethod(methods, r.Body != nil)))
	return r
}

// defaultMethod is POST for an example with a body and GET for others, if the
// endpoint takes them, else the first that it takes.
func defaultMethod(methods []string, body bool) string {
	usual := http.MethodGet
	if body {
		usual = http.MethodPost
	}
	if len(methods) == 0 || slices.Contains(methods, usual) {
		return usual
	}
	return methods[0]
}
