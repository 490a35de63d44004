package admin

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/shoalserve/shoal/internal/auth"
	"github.com/shoalserve/shoal/internal/front/problem"
	"github.com/shoalserve/shoal/internal/serving"
)

// Handler returns the admin API as a handler, for servers that listen elsewhere.
// Requests that came by TCP must bring a credential.
func (f *Front) Handler() http.Handler { return http.HandlerFunc(f.serveHTTP) }

func (f *Front) serveHTTP(w http.ResponseWriter, r *http.Request) {
	control := http.NewResponseController(w)
	// Deadlines stay with a connection from one request to the next: clear what
	// the last one left, and bound what the server itself flushes at the end.
	_ = control.SetWriteDeadline(time.Time{}) // not every ResponseWriter has deadlines
	rest := readTimeout                       // of a body that was not read, which net/http reads before a short answer
	defer func() {
		_ = control.SetWriteDeadline(time.Now().Add(writeTimeout))
		_ = control.SetReadDeadline(time.Now().Add(rest)) // until net/http waits for the next request
	}()
	if r.ContentLength != 0 { // it is read before a long one, too
		_ = control.SetReadDeadline(time.Now().Add(rest))
	}
	who, err := f.identify(r)
	if err != nil {
		rest = denialTimeout
		f.auditStranger(r, err)
		f.deny(w, r, err)
		return
	}
	r = r.WithContext(context.WithValue(r.Context(), identityKey{}, who))
	if _, pattern := f.mux.Handler(r); pattern == "" {
		f.noSuchCall(w, r)
		return
	}
	f.mux.ServeHTTP(w, r)
}

// handle makes a handler of a call.
func (f *Front) handle(c call) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if err := identityOf(r).Allow(c.scopes...); err != nil {
			f.auditDenied(r, c, err)
			f.deny(w, r, err)
			return
		}
		r = withNotes(r)
		defer func() { // net/http logs it
			if v := recover(); v != nil {
				f.audit(r, c, fmt.Errorf("the call panicked: %v", v))
				panic(v)
			}
		}()
		err := c.run(w, r)
		f.audit(r, c, err)
		if err != nil {
			f.writeError(w, r, err)
		}
	}
}

// noSuchCall answers what the mux has no pattern for. The mux knows whether
// the path or only the method is wrong, but says it in plain text.
func (f *Front) noSuchCall(w http.ResponseWriter, r *http.Request) {
	said := &muted{header: make(http.Header), status: http.StatusNotFound}
	f.mux.ServeHTTP(said, r)
	p := problem.Of(serving.Errorf(serving.InvalidArgument, "the admin API has no %s", r.URL.Path))
	p.Title, p.Status = "No such call", said.status
	if allow := said.header.Get("Allow"); allow != "" {
		w.Header().Set("Allow", allow)
		p.Title = "Wrong method"
		p.Detail = "method " + r.Method + " is not for " + r.URL.Path + ", which takes " + allow
	}
	f.writeProblem(w, r, p)
}

// muted is a ResponseWriter that keeps the head and drops the body.
type muted struct {
	header http.Header
	status int
}

func (m *muted) Header() http.Header         { return m.header }
func (m *muted) WriteHeader(status int)      { m.status = status }
func (m *muted) Write(p []byte) (int, error) { return len(p), nil }

// untilDrain is the request's context, which also ends when the server shuts
// down: for calls that can take longer than a shutdown may.
func (f *Front) untilDrain(r *http.Request) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(r.Context())
	stop := context.AfterFunc(f.draining, func() { cancel(context.Cause(f.draining)) })
	return ctx, func() { stop(); cancel(nil) }
}

// lookAgain is how often what stays open looks whether its caller may still have it.
const lookAgain = time.Second

// watch calls ended once, within lookAgain of when the identity is void. stop ends the
// watching, and waits for it.
func watch(who *auth.Identity, ended func()) (stop func()) {
	if !who.Ends() {
		return func() {}
	}
	ctx, cancel := context.WithCancel(context.Background())
	var watching sync.WaitGroup
	watching.Go(func() {
		ticker := time.NewTicker(lookAgain)
		defer ticker.Stop()
		for {
			select {
			case now := <-ticker.C:
				if who.Ended(now) {
					ended()
					return
				}
			case <-ctx.Done():
				return
			}
		}
	})
	return func() { cancel(); watching.Wait() }
}
