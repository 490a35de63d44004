package admin

import (
	"context"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/shoalserve/shoal/batch"
	"github.com/shoalserve/shoal/internal/serving"
	"github.com/shoalserve/shoal/internal/wire"
)

// together is the queries of one QUERY frame: they came at one moment for one
// endpoint, and share their memory and a timer.
//
// It is not reused when they are answered: a shadow, or a runtime that is being
// stopped, may still read a call.
type together struct {
	link     *link
	endpoint string
	limit    limit
	queries  []query

	// Guarded by link.mu.
	open  int // queries that are pending
	timer *time.Timer
}

// query is a query of a link from its frame to its answer. While it is in
// link.pending nobody has answered it; whoever takes it out, does.
type query struct {
	together *together
	ref      uint64
	call     serving.Call
}

// submit is called by the reader.
func (t *together) submit(endpoint *serving.Endpoint) error {
	taken, err := t.register()
	if err != nil {
		return err
	}
	for i := range t.queries {
		q := &t.queries[i]
		if !taken {
			t.link.refuse(q.ref, batch.ErrDraining)
		} else if err := q.submit(endpoint); err != nil {
			q.fail(err)
		}
	}
	t.startTimer()
	return nil
}

func (q *query) submit(endpoint *serving.Endpoint) error {
	if q.together.link.plain { // it is JSON, then
		if err := checkDepth(q.call.Args.Payload); err != nil {
			return err
		}
	}
	return endpoint.Submit(&q.call)
}

// register makes the queries pending, unless the link takes no more.
func (t *together) register() (taken bool, err error) {
	l := t.link
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.gone:
		return false, net.ErrClosed
	case l.draining:
		return false, nil
	}
	for i := range t.queries {
		q := &t.queries[i]
		if l.pending[q.ref] != nil {
			return false, malformed("a QUERY with ref id %d, which still waits for its answer", q.ref)
		}
		l.pending[q.ref] = q
		t.open++
	}
	return true, nil
}

// startTimer bounds the time of those queries that were not answered within
// Submit.
func (t *together) startTimer() {
	t.link.mu.Lock()
	defer t.link.mu.Unlock()
	if at := t.nextDeadline(time.Time{}); !at.IsZero() {
		t.timer = time.AfterFunc(time.Until(at), t.expire)
	}
}

// nextDeadline is the earliest end of a pending query's time after a moment;
// zero if there is none. link.mu is held.
func (t *together) nextDeadline(after time.Time) (at time.Time) {
	if t.open == 0 {
		return at
	}
	for i := range t.queries {
		q := &t.queries[i]
		if t.link.pending[q.ref] != q {
			continue
		}
		if end, _ := q.Deadline(); end.After(after) && (at.IsZero() || end.Before(at)) {
			at = end
			if t.limit.timeout > 0 {
				break // it is the same for all
			}
		}
	}
	return at
}

// expire answers queries whose time is over, whether or not they still wait.
func (t *together) expire() {
	now := time.Now()
	var over []*query
	t.link.mu.Lock()
	for i := range t.queries {
		q := &t.queries[i]
		if end, _ := q.Deadline(); t.link.pending[q.ref] == q && !end.After(now) {
			over = append(over, q)
		}
	}
	if at := t.nextDeadline(now); !at.IsZero() {
		t.timer.Reset(at.Sub(now))
	}
	t.link.mu.Unlock()
	for _, q := range over {
		q.call.Withdraw()
		q.fail(expiredError(t.endpoint, t.limit.timeoutOf(&q.call)))
	}
}

func (t *together) stopTimer() {
	t.link.mu.Lock()
	defer t.link.mu.Unlock()
	if t.timer != nil {
		t.timer.Stop()
	}
}

// close takes a query out of those that are pending and reports whether it was
// there. link.mu is held.
func (q *query) close() bool {
	t := q.together
	if t.link.pending[q.ref] != q {
		return false
	}
	delete(t.link.pending, q.ref)
	if t.open--; t.open == 0 && t.timer != nil {
		t.timer.Stop()
	}
	return true
}

// finished is the Done of every call of a link.
func finished(c *serving.Call) {
	q := c.Context.(*query)
	if c.Err != nil {
		q.failed(c)
		return
	}
	format := c.Response.Format
	switch format {
	case serving.JSON, serving.Text, serving.Bytes:
	case serving.Pickle:
		if q.together.link.plain {
			q.fail(serving.Errorf(serving.Internal, "the backend answered a query in JSON with a pickle"))
			return
		}
	case serving.Full:
		format = formatOf(c.Response.Header)
	default:
		q.fail(serving.Errorf(serving.Internal, "the backend gave an answer of unknown format %d", format))
		return
	}
	q.answer(uint8(format), c.Response.Body)
}

// formatOf chooses the format for the body of a full answer: a link has no
// place for its status and headers.
func formatOf(h http.Header) serving.Format {
	switch contentType := h.Get("Content-Type"); {
	case strings.HasPrefix(contentType, "application/json"):
		return serving.JSON
	case strings.HasPrefix(contentType, "text/"):
		return serving.Text
	}
	return serving.Bytes
}

func (q *query) fail(err error) { q.answer(wire.ErrorCode, errorPayload(err)) }

// failed answers with the error of a query that a backend took: all of it for whoever
// may deploy there, and to others what they would be told over HTTP.
func (q *query) failed(c *serving.Call) {
	l := q.together.link
	p := serving.Describe(c.Err)
	if !l.front.seesTraceback(l.who, c) {
		p.Traceback = ""
		l.front.failures.Tell("", c)
	}
	if l.plain {
		p.Pickle = nil
	}
	q.answer(wire.ErrorCode, problemPayload(p))
}

// answer sends the query's answer, if it has none yet.
func (q *query) answer(code uint8, payload []byte) {
	if len(payload) > wire.MaxFrame-answerFixed-answerEach {
		code, payload = wire.ErrorCode, errorPayload(serving.Errorf(serving.TooLarge, "the answer has %d bytes, more than fit into a frame", len(payload)))
	}
	l := q.together.link
	l.mu.Lock()
	if !q.close() {
		l.mu.Unlock()
		return
	}
	l.out.answer(q.ref, code, payload)
	wake := l.shouldWake()
	l.mu.Unlock()
	if wake {
		l.wakeWriter()
	}
}

// refuse answers a query that is not pending.
func (l *link) refuse(ref uint64, err error) {
	payload := errorPayload(err)
	l.mu.Lock()
	l.out.answer(ref, wire.ErrorCode, payload)
	wake := l.shouldWake()
	l.mu.Unlock()
	if wake {
		l.wakeWriter()
	}
}

// shouldWake reports whether the writer must be woken after an answer was
// appended. mu is held.
func (l *link) shouldWake() bool { return !l.burst || l.out.size > burstBytes }

// A query is its call's context. It only tells the deadline, so that the
// batcher does not hold it longer; it never ends, because expire withdraws it.

// Deadline implements [context.Context].
func (q *query) Deadline() (time.Time, bool) {
	limit := q.together.limit
	return limit.arrived.Add(limit.timeoutOf(&q.call)), true
}

// Done implements [context.Context].
func (q *query) Done() <-chan struct{} { return nil }

// Err implements [context.Context].
func (q *query) Err() error { return nil }

// Value implements [context.Context].
func (q *query) Value(any) any { return nil }

var _ context.Context = (*query)(nil)
