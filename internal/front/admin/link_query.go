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

// query is a query of a link from its frame to its answer. While it is in
// link.pending nobody has answered it; whoever takes it out, does.
//
// A query is not reused when it is answered: a shadow, or a runtime that is
// being stopped, may still read its call.
type query struct {
	link     *link
	ref      uint64
	endpoint string
	limit    limit
	call     serving.Call
	timer    *time.Timer // guarded by link.mu
}

// submit is called by the reader.
func (q *query) submit(endpoint *serving.Endpoint) error {
	taken, err := q.register()
	if err != nil {
		return err
	}
	if !taken {
		q.link.refuse(q.ref, batch.ErrDraining)
		return nil
	}
	if err := endpoint.Submit(&q.call); err != nil {
		q.fail(err)
		return nil
	}
	q.startTimer()
	return nil
}

// register makes the query pending, unless the link takes no more.
func (q *query) register() (taken bool, err error) {
	l := q.link
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.gone:
		return false, net.ErrClosed
	case l.pending[q.ref] != nil:
		return false, malformed("a QUERY with ref id %d, which still waits for its answer", q.ref)
	case l.draining:
		return false, nil
	}
	l.pending[q.ref] = q
	return true, nil
}

// startTimer bounds the query's time, unless it was answered within Submit.
func (q *query) startTimer() {
	left := q.limit.timeoutOf(&q.call)
	q.link.mu.Lock()
	defer q.link.mu.Unlock()
	if q.link.pending[q.ref] == q {
		q.timer = time.AfterFunc(left, q.expire)
	}
}

func (q *query) stopTimer() {
	q.link.mu.Lock()
	timer := q.timer
	q.link.mu.Unlock()
	if timer != nil {
		timer.Stop()
	}
}

// expire answers a query whose time is over, whether or not it still waits.
func (q *query) expire() {
	q.call.Withdraw()
	q.fail(expiredError(q.endpoint, q.limit.timeoutOf(&q.call)))
}

// finished is the Done of every call of a link.
func finished(c *serving.Call) {
	q := c.Context.(*query)
	if c.Err != nil {
		q.fail(c.Err)
		return
	}
	format := c.Response.Format
	switch format {
	case serving.JSON, serving.Text, serving.Bytes, serving.Pickle:
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

// answer sends the query's answer, if it has none yet.
func (q *query) answer(code uint8, payload []byte) {
	if len(payload) > wire.MaxFrame-answerFixed {
		code, payload = wire.ErrorCode, errorPayload(serving.Errorf(serving.TooLarge, "the answer has %d bytes, more than fit into a frame", len(payload)))
	}
	l := q.link
	l.mu.Lock()
	if l.pending[q.ref] != q {
		l.mu.Unlock()
		return
	}
	delete(l.pending, q.ref)
	timer := q.timer
	l.out.answer(q.ref, code, payload)
	wake := l.shouldWake()
	l.mu.Unlock()
	if timer != nil {
		timer.Stop()
	}
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
	return q.limit.arrived.Add(q.limit.timeoutOf(&q.call)), true
}

// Done implements [context.Context].
func (q *query) Done() <-chan struct{} { return nil }

// Err implements [context.Context].
func (q *query) Err() error { return nil }

// Value implements [context.Context].
func (q *query) Value(any) any { return nil }

var _ context.Context = (*query)(nil)
