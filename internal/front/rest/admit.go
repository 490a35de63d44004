package rest

import (
	"context"
	"errors"
	"net/http"

	"github.com/shoalserve/shoal/internal/auth"
	"github.com/shoalserve/shoal/internal/serving"
)

// callerKey finds the identity in the context of a request for the server's own paths.
type callerKey struct{}

func withCaller(r *http.Request, who *auth.Identity) *http.Request {
	if who == nil {
		return r
	}
	return r.WithContext(context.WithValue(r.Context(), callerKey{}, who))
}

// admit lets a request in and says who sent it, nil where nobody is asked; or says
// why not. A credential goes no further: the model gets the caller's name instead,
// and none that the client made up.
func (f *Front) admit(r *http.Request, e *serving.Endpoint) (*auth.Identity, error) {
	a := f.opts.Auth
	path := r.URL.Path
	if a == nil || e == nil && (path == "/livez" || path == "/readyz" || path == "/metrics" && a.OpenMetrics()) {
		return nil, nil
	}
	who, err := a.Request(r)
	switch {
	case err != nil:
	case e != nil:
		err = who.AllowQuery(e.Name)
	case path == "/metrics":
		err = who.Allow(auth.Metrics)
	default:
		err = who.Allow(auth.Query)
	}
	if err != nil {
		return nil, err
	}
	delete(r.Header, "Authorization")
	r.Header[callerHeader] = []string{who.Name}
	return who, nil
}

// deny answers a request that is not let in, before its body is read.
func (f *Front) deny(w http.ResponseWriter, r *http.Request, id string, err error) int {
	if denial, ok := errors.AsType[*auth.Denial](err); ok {
		w.Header().Set("WWW-Authenticate", denial.Challenge())
		f.opts.Metrics.Denied("http", denial.Reason)
	}
	f.opts.Logger.Debug("a request was denied", "request", id, "client", r.RemoteAddr, "path", r.URL.Path, "error", err)
	return fail(w, id, err, false)
}
