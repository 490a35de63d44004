package admin

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/shoalserve/shoal/internal/front/problem"
	"github.com/shoalserve/shoal/internal/serving"
)

// Handler returns the admin API as a handler, for servers that listen elsewhere.
// Requests that came by TCP must bring the token.
func (f *Front) Handler() http.Handler { return http.HandlerFunc(f.serveHTTP) }

func (f *Front) serveHTTP(w http.ResponseWriter, r *http.Request) {
	control := http.NewResponseController(w)
	// Deadlines stay with a connection from one request to the next: clear what
	// the last one left, and bound what the server itself flushes at the end.
	_ = control.SetWriteDeadline(time.Time{}) // not every ResponseWriter has deadlines
	defer func() { _ = control.SetWriteDeadline(time.Now().Add(writeTimeout)) }()

	if !f.authorized(r) {
		w.Header().Set("WWW-Authenticate", `Bearer realm="shoal"`)
		f.writeError(w, r, serving.Errorf(serving.Unauthorized, "%s", f.unauthorized(r)))
		return
	}
	if _, pattern := f.mux.Handler(r); pattern == "" {
		f.noSuchCall(w, r)
		return
	}
	f.mux.ServeHTTP(w, r)
}

// handle makes a handler of a call that may fail before it wrote anything.
func (f *Front) handle(call func(http.ResponseWriter, *http.Request) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if err := call(w, r); err != nil {
			f.writeError(w, r, err)
		}
	}
}

// authorized lets Unix sockets through, whose mode says who may connect, and
// compares the token of all others in constant time. Hashes hide its length.
func (f *Front) authorized(r *http.Request) bool {
	if local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok && local.Network() == "unix" {
		return true
	}
	given := sha256.Sum256([]byte(bearer(r)))
	want := sha256.Sum256([]byte(f.opts.Token))
	return subtle.ConstantTimeCompare(given[:], want[:]) == 1 && f.opts.Token != ""
}

func bearer(r *http.Request) string {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	return strings.TrimSpace(token)
}

func (f *Front) unauthorized(r *http.Request) string {
	switch {
	case f.opts.Token == "":
		return "this server has no token, so it is only reached by its Unix socket"
	case r.Header.Get("Authorization") == "":
		return "this server wants a token: send Authorization: Bearer TOKEN"
	default:
		return "the token is not this server's"
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
