package rest

import (
	"net/http"
	"time"

	"github.com/shoalserve/shoal/internal/serving"
)

// The headers by which a client says how its query is to be treated.
const (
	timeoutHeader  = "Shoal-Timeout"  // an answer sooner than the backend's timeout
	priorityHeader = "Shoal-Priority" // before others, or after them
	callerHeader   = "Shoal-Caller"   // for whom it asks; only a label, nobody checks it
)

// terms are how a query is to be treated.
type terms struct {
	timeout  time.Duration // 0: as long as the backend allows
	priority int
	caller   string
}

// termsOf reads the terms of a request that net/http serves.
func termsOf(r *http.Request) (terms, error) {
	first := func(name string) string {
		if values := r.Header[name]; len(values) > 0 {
			return values[0]
		}
		return ""
	}
	_, limited := r.Header[timeoutHeader]
	return parseTerms(first(timeoutHeader), limited, first(priorityHeader), first(callerHeader))
}

// terms reads those of a plain request.
func (h *head) terms() (terms, error) {
	if h.timeout == nil && h.priority == nil && h.caller == nil {
		return terms{}, nil
	}
	return parseTerms(string(h.timeout), h.timeout != nil, string(h.priority), string(h.caller))
}

func parseTerms(timeout string, limited bool, priority, caller string) (t terms, err error) {
	if limited {
		if t.timeout, err = parseTimeout(timeout); err != nil {
			return terms{}, err
		}
	}
	if priority != "" {
		if t.priority, err = serving.ParsePriority(priority); err != nil {
			return terms{}, serving.Errorf(serving.InvalidArgument, "header %s: %v", priorityHeader, err)
		}
	}
	if err = serving.CheckCaller(caller); err != nil {
		return terms{}, serving.Errorf(serving.InvalidArgument, "header %s: %v", callerHeader, err)
	}
	t.caller = caller
	return t, nil
}

// apply makes them those of a call that has arrived.
func (t terms) apply(c *serving.Call, arrived time.Time) {
	c.Arrived, c.Timeout = arrived, t.timeout
	// A front that knows who asks puts the name here, whatever the header says.
	c.Caller, c.Priority = t.caller, t.priority
}

func parseTimeout(value string) (time.Duration, error) {
	d, err := time.ParseDuration(value)
	if err != nil || d <= 0 {
		return 0, serving.Errorf(serving.InvalidArgument, "header %s: %q is not a duration; write it with a unit, such as \"500ms\"", timeoutHeader, value)
	}
	return d, nil
}
