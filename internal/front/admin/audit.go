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

// lines bounds how many lines of denials the audit log has, and counts the others.
type lines struct {
	limit *rate.Limiter

	mu      sync.Mutex
	dropped int64 // since the last line
}

// allow reports whether there may be a line, and how many there were not before it.
func (l *lines) allow() (ok bool, dropped int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.limit.Allow() {
		l.dropped++
		return false, 0
	}
	dropped, l.dropped = l.dropped, 0
	return true, dropped
}

// deniedLines are the lines of each caller.
type deniedLines struct {
	mu sync.Mutex
	of map[string]*lines // by identity
}

// How many lines a caller has: deniedBurst, and deniedRate more a second. Those of
// strangers have strangersBurst and strangersRate together.
const (
	deniedRate  = 1
	deniedBurst = 10
	maxDenied   = 1000 // callers that are remembered

	strangersRate  = 10
	strangersBurst = 100
)

// allow is [lines.allow] for a caller.
func (d *deniedLines) allow(who string) (ok bool, dropped int64) {
	d.mu.Lock()
	own := d.of[who]
	if own == nil {
		if len(d.of) >= maxDenied || d.of == nil {
			d.of = make(map[string]*lines) // issuers name any number
		}
		own = &lines{limit: rate.NewLimiter(deniedRate, deniedBurst)}
		d.of[who] = own
	}
	d.mu.Unlock()
	return own.allow()
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
	ok, dropped := f.strangers.allow()
	if !ok {
		return
	}
	p := serving.Describe(err)
	line := []any{"change", c.change, "who", "", "by", "nobody", "from", r.RemoteAddr, "path", r.URL.Path, "result", "failed", "code", string(p.Code), "error", p.Message}
	if dropped > 0 {
		line = append(line, "suppressed", dropped)
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
