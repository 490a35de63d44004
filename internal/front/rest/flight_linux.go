package rest

import (
	"context"
	"net/http"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/shoalserve/shoal/batch"
	"github.com/shoalserve/shoal/internal/serving"
	"github.com/shoalserve/shoal/internal/telemetry"
)

// flight is a query on its way from a connection to a backend and back. A
// connection has one at a time and uses it again and again.
//
//	landed ──loop──▶ flying ──Done──▶ landing ──Done──▶ landed
//	                   └────loop────▶ abandoned
//
// While it flies or lands, the connection's loop neither reads nor closes the
// connection. It is the loop that abandons a flight, when its client left or its
// time is over; an abandoned flight is never used again, since a replica may still
// write to its call.
type flight struct {
	state atomic.Uint32
	// limit is when the answer must be there, in the loop's time; 0 until a backend
	// has taken the call.
	limit atomic.Int64

	conn     *conn
	call     serving.Call
	kept     *kept
	endpoint *serving.Endpoint // nil where no endpoint has the route
	route    *telemetry.Route
	began    time.Time // when its head was there
	asked    time.Time // when its body was
	terms    terms
	refusal  error // why it is none of the endpoint's
	length   int   // of the body
	held     int   // what its memory is counted as, until it is submitted
	json     bool  // it says that it is JSON
	once     bool  // it is not used again: someone may hold on to it
	ended    int64 // when it landed, in the loop's time
}

// States of a flight, and a bit beside them: the loop has something to do with the
// connection when the flight has landed.
const (
	landed uint32 = iota
	flying
	landing
	abandoned

	again uint32 = 8
)

// kept is what others may read when the flight is over: a shadow or a model the
// request, anyone the context. It is not used again.
type kept struct {
	query
	context presence
}

func newFlight(c *conn) *flight {
	x := &flight{conn: c}
	x.call.Done = x.done
	return x
}

// prepare takes in a request's head.
func (x *flight) prepare(h *head, e *serving.Endpoint, route *telemetry.Route, now time.Time) {
	x.endpoint, x.route, x.began = e, route, now
	x.length, x.json = int(h.length), isJSON(unsafeString(h.contentType))
	x.kept = &kept{}
	h.request(&x.kept.request)
	x.call.Context, x.call.Origin, x.call.Request = &x.kept.context, batch.Web, &x.kept.request
	x.call.Method, x.call.ShardKey = string(h.callMethod), string(h.shardKey)
	x.terms, x.refusal = h.terms()
	if e == nil {
		x.refusal = notFound(string(h.path))
	}
}

// largeBody is the size from which a body is not looked at by the loop itself.
const largeBody = 4 << 10

// start submits the query, in the loop where that takes no time, and else aside.
func (x *flight) start(busy bool) {
	x.limit.Store(0)
	state := flying
	if busy {
		state |= again
	}
	x.state.Store(state)
	held := x.held // the flight may be the next request's before it can be given back
	x.held = 0
	if refuse := x.unwanted(); refuse != nil {
		x.land()
		x.render(refuse)
	} else {
		if x.once = !x.endpoint.Prompt() || x.length >= largeBody; x.once {
			x.conn.loop.flights.Go(func() {
				x.submit()
				x.front().arriving.Give(held) // by now the queue has counted it
			})
			return
		}
		x.submit()
	}
	x.front().arriving.Give(held)
}

// unwanted returns what answers a request that is refused whatever its body is, and
// nil for any other.
func (x *flight) unwanted() func(http.ResponseWriter) int {
	request := &x.kept.request
	if x.endpoint != nil && !x.endpoint.Takes(request.Method) {
		return wrongMethodOf(request, x.endpoint.Allow)
	}
	if x.refusal != nil {
		return failureOf(request.ID, x.refusal)
	}
	return nil
}

func wrongMethodOf(request *serving.Request, allow string) func(http.ResponseWriter) int {
	path, _, _ := strings.Cut(request.Target, "?")
	return func(w http.ResponseWriter) int { return wrongMethod(w, request.Method, path, request.ID, allow) }
}

func failureOf(id string, err error) func(http.ResponseWriter) int {
	return func(w http.ResponseWriter) int { return fail(w, id, err, false) }
}

func (x *flight) submit() {
	defer x.recovered()
	if x.json {
		x.kept.request.Check = checkJSONBody
	}
	timeout := x.terms.timeout
	x.terms.apply(&x.call, x.asked)
	backend, err := x.endpoint.Send(&x.call)
	if err != nil {
		x.refuse(err)
		return
	}
	// The flight may have landed by now: what Done touches may not be touched.
	timeout = allowed(timeout, backend.Config())
	x.limit.Store(x.conn.loop.time(x.asked.Add(timeout)))
	if x.state.Load()&^again == abandoned {
		x.call.Withdraw() // the loop could not, there was no backend yet
	}
}

// recovered turns a panic of ours into an answer, so that it fails one request.
func (x *flight) recovered() {
	v := recover()
	switch {
	case v == nil:
	case x.land():
		x.once = true
		x.logPanic(v)
		x.render(failureOf(x.kept.request.ID, errPanicked))
	default: // it has its answer, and may be another request's by now
		x.front().opts.Logger.Error("a request made the server panic after its answer", "panic", v, "stack", string(debug.Stack()))
	}
}

// logPanic is for whoever may still read the request.
func (x *flight) logPanic(v any) {
	path, _, _ := strings.Cut(x.kept.request.Target, "?") // what is behind it may be secret
	x.front().opts.Logger.Error("a request made the server panic", "request", x.kept.request.ID, "path", path, "panic", v, "stack", string(debug.Stack()))
}

// refuse answers a query that no backend took.
func (x *flight) refuse(err error) {
	if x.land() {
		x.render(func(w http.ResponseWriter) int { return fail(w, x.kept.request.ID, err, false) })
	}
}

// abandon makes the flight the loop's again. It reports false if it lands just now
// or has landed; hasLanded then sees to it that the loop hears of it.
func (x *flight) abandon() bool {
	if !x.move(abandoned) {
		return false
	}
	x.kept.context.end()
	if x.limit.Load() != 0 {
		x.call.Withdraw()
	}
	return true
}

// land claims the right to answer.
func (x *flight) land() bool { return x.move(landing) }

// move moves a flight that flies to another state. It reports false if it does not fly.
func (x *flight) move(to uint32) bool {
	for {
		state := x.state.Load()
		if state&^again != flying {
			return false
		}
		if x.state.CompareAndSwap(state, to|state&again) {
			return true
		}
	}
}

// done is the call's Done. It does not block: what the kernel does not take of the
// answer is the loop's to write, and what is logged is logged aside.
func (x *flight) done(call *serving.Call) {
	switch {
	case !x.land():
	case isUsual(call):
		x.answer()
	case call.Err == nil:
		x.render(x.respond)
	default:
		x.conn.loop.flights.Go(func() { x.render(x.respond) })
	}
}

func (x *flight) respond(w http.ResponseWriter) int {
	return x.front().answer(w, &x.kept.query, &x.call, x.call.Backend.Config().ExposeTraceback)
}

// scratch is memory in which answers are laid out.
var scratch = sync.Pool{New: func() any {
	buf := make([]byte, 0, 2<<10)
	return &buf
}}

// smallBody is the size up to which a body is copied behind its head.
const smallBody = 8 << 10

// answer answers in the usual way.
func (x *flight) answer() {
	now, last := time.Now(), x.front().draining.Load()
	x.route.Request(http.StatusOK, now.Sub(x.began))
	memory := scratch.Get().(*[]byte)
	buf, body := x.front().appendAnswer((*memory)[:0], &x.call, now, last), x.call.Response.Body
	if x.kept.request.Method == http.MethodHead {
		body = nil
	}
	x.send(memory, buf, body, last)
	x.finish(now)
}

// render answers as a handler would.
func (x *flight) render(respond func(http.ResponseWriter) int) { x.finish(x.respondWith(respond)) }

// respondWith writes what a handler answers, and returns when that was. If it panics the
// connection ends: nobody else would give it back to its loop.
func (x *flight) respondWith(respond func(http.ResponseWriter) int) (now time.Time) {
	now = time.Now()
	defer func() {
		if v := recover(); v != nil {
			x.conn.broken = true
			x.logPanic(v)
		}
	}()
	r, status := x.rendering(respond)
	x.route.Request(status, now.Sub(x.began))
	last := x.front().draining.Load() || r.header["Connection"] != nil
	memory := scratch.Get().(*[]byte)
	buf := r.appendHead((*memory)[:0], &x.front().date, now, last)
	if x.kept.request.Method == http.MethodHead || !allowsBody(r.status) {
		r.body = nil
	}
	x.send(memory, buf, r.body, last)
	return now
}

// rendering is what a handler answers, or says that it panicked: an error of a model's may
// do so when it is looked into.
func (x *flight) rendering(respond func(http.ResponseWriter) int) (r rendered, status int) {
	defer func() {
		if v := recover(); v != nil {
			x.logPanic(v)
			r = rendered{header: make(http.Header)}
			status = fail(&r, x.kept.request.ID, errPanicked, false)
		}
	}()
	r.header = make(http.Header)
	status = respond(&r)
	return r, status
}

// send writes an answer whose head is laid out in memory from the pool.
func (x *flight) send(memory *[]byte, head, body []byte, last bool) {
	if len(body) <= smallBody {
		head, body = append(head, body...), nil
	}
	x.conn.last = last
	x.conn.send(head, body)
	if poisoned.Load() {
		poison(head)
	}
	*memory = head
	scratch.Put(memory)
}

// finish gives the connection back to its loop.
func (x *flight) finish(now time.Time) {
	c := x.conn
	x.ended = c.loop.time(now)
	x.kept.context.end()
	x.call.Reset()
	x.kept, x.endpoint, x.route = nil, nil, nil
	todo := c.broken || c.last || len(c.out) > 0
	if old := x.state.Swap(landed); todo || old&again != 0 {
		c.loop.post(c)
	}
}

func (x *flight) front() *Front { return x.conn.loop.front }

// presence is the context of a query: it ends when the client has left, or has
// its answer. Most are never waited for, and have no channel then.
type presence struct {
	ended atomic.Bool
	mu    sync.Mutex
	done  chan struct{}
}

var _ context.Context = (*presence)(nil)

// Deadline implements context.Context.
func (p *presence) Deadline() (time.Time, bool) { return time.Time{}, false }

// Done implements context.Context.
func (p *presence) Done() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.done == nil {
		p.done = make(chan struct{})
		if p.ended.Load() {
			close(p.done)
		}
	}
	return p.done
}

// Err implements context.Context.
func (p *presence) Err() error {
	if p.ended.Load() {
		return context.Canceled
	}
	return nil
}

// Value implements context.Context.
func (p *presence) Value(any) any { return nil }

func (p *presence) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended.Swap(true) || p.done == nil {
		return
	}
	close(p.done)
}
