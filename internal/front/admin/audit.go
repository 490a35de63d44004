package admin

import (
	"context"
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"sync"

	"golang.org/x/time/rate"

	"github.com/shoalserve/shoal/internal/serving"
)

// notesKey finds what a call notes about itself for the audit log.
type notesKey struct{}

func withNotes(r *http.Request) *http.Request {
	return r.WithContext(context.WithValue(r.Context(), notesKey{}, new([]any)))
}

// note adds names and values, in turn, to the line that the audit log will have of
// a call. Values of an environment, bodies and pickles do not belong there.
func note(r *http.Request, args ...any) {
	if notes, ok := r.Context().Value(notesKey{}).(*[]any); ok {
		*notes = append(*notes, args...)
	}
}

// audit writes a line about a call that changed something, or was to.
func (f *Front) audit(r *http.Request, c call, err error) {
	if c.change == "" {
		return
	}
	who := identityOf(r)
	line := []any{"change", c.change, "who", who.Name, "by", who.Kind, "from", r.RemoteAddr}
	if name := r.PathValue("name"); name != "" {
		line = append(line, "name", name)
	}
	if err == nil {
		line = append(line, "result", "done")
	} else {
		p := serving.Describe(err)
		line = append(line, "result", "failed", "code", string(p.Code), "error", p.Message)
	}
	if notes, ok := r.Context().Value(notesKey{}).(*[]any); ok {
		line = append(line, *notes...)
	}
	f.opts.Audit.Info("audit", line...)
}

// deniedLines bounds how many lines of denials each caller has in the audit log.
type deniedLines struct {
	mu sync.Mutex
	of map[string]*callersLines // by identity
}

type callersLines struct {
	limit   *rate.Limiter
	dropped int64 // since the last line
}

// How many lines a caller has: deniedBurst, and deniedRate more a second.
const (
	deniedRate  = 1
	deniedBurst = 10
	maxDenied   = 1000 // callers that are remembered
)

// allow reports whether a caller may have a line, and how many he had not before it.
func (d *deniedLines) allow(who string) (ok bool, dropped int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	lines := d.of[who]
	if lines == nil {
		if len(d.of) >= maxDenied || d.of == nil {
			d.of = make(map[string]*callersLines) // issuers name any number
		}
		lines = &callersLines{limit: rate.NewLimiter(deniedRate, deniedBurst)}
		d.of[who] = lines
	}
	if !lines.limit.Allow() {
		lines.dropped++
		return false, 0
	}
	dropped, lines.dropped = lines.dropped, 0
	return true, dropped
}

// auditDenied is audit for a call that its caller's scopes do not allow, as far as he
// has not had too many lines: whoever may only ask must not fill the log.
func (f *Front) auditDenied(r *http.Request, c call, err error) {
	if c.change == "" {
		return
	}
	ok, dropped := f.denied.allow(identityOf(r).String())
	if !ok {
		return
	}
	r = withNotes(r)
	if dropped > 0 {
		note(r, "suppressed", dropped)
	}
	f.audit(r, c, err)
}

// auditStranger writes a line about a call that would have changed something, of
// somebody who is not known. There can be any number of these: no more than a few a
// second are written down, and of the others how many they were.
func (f *Front) auditStranger(r *http.Request, err error) {
	_, pattern := f.mux.Handler(r)
	c, known := f.calls[pattern]
	if !known || c.change == "" {
		return
	}
	if !f.strangers.Allow() {
		f.unaudited.Add(1)
		return
	}
	p := serving.Describe(err)
	line := []any{"change", c.change, "who", "", "by", "nobody", "from", r.RemoteAddr, "path", r.URL.Path, "result", "failed", "code", string(p.Code), "error", p.Message}
	if n := f.unaudited.Swap(0); n > 0 {
		line = append(line, "suppressed", n)
	}
	f.opts.Audit.Info("audit", line...)
}

// keysOf are the keys of a JSON object.
func keysOf(raw []byte) []string {
	var object map[string]json.RawMessage
	if json.Unmarshal(raw, &object) != nil {
		return nil
	}
	return slices.Sorted(maps.Keys(object))
}
