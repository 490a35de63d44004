package admin

import (
	"errors"
	"net/http"

	"github.com/shoalserve/shoal/internal/auth"
	"github.com/shoalserve/shoal/internal/front/problem"
)

// writeError answers with an error as a problem.
func (f *Front) writeError(w http.ResponseWriter, r *http.Request, err error) {
	if _, denied := errors.AsType[*auth.Denial](err); denied {
		f.deny(w, r, err)
		return
	}
	p := problem.Of(err)
	if p.Status >= http.StatusInternalServerError && !p.IsModel() {
		f.opts.Logger.Warn("admin call failed", "method", r.Method, "path", r.URL.Path, "code", p.Code, "error", err)
	}
	f.writeProblem(w, r, p)
}

func (f *Front) writeProblem(w http.ResponseWriter, r *http.Request, p problem.Problem) {
	f.writeBody(w, r, p.Status, problem.ContentType, p.Encode(w.Header()))
}
