package rest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/shoalserve/shoal/batch"
	"github.com/shoalserve/shoal/internal/front/problem"
	"github.com/shoalserve/shoal/internal/serving"
	"github.com/shoalserve/shoal/internal/telemetry"
)

// exchange is one request on its way. Exchanges are reused, unless their caller
// left while a replica was still to write into them.
type exchange struct {
	call  serving.Call
	done  chan struct{}
	timer *time.Timer
	*query
}

// query is what others still read when the exchange is done: a shadow the
// request, net/http the values of the answer's headers. It is never reused.
type query struct {
	request serving.Request
	values  [4]string
	used    int // of values
}

// set sets a header of the answer.
func (q *query) set(h http.Header, name, value string) {
	q.values[q.used] = value
	h[name] = q.values[q.used : q.used+1 : q.used+1]
	q.used++
}

var exchanges = sync.Pool{New: func() any {
	x := &exchange{done: make(chan struct{}, 1), timer: time.NewTimer(time.Hour)}
	x.timer.Stop()
	x.call.Done = func(*serving.Call) { x.done <- struct{}{} }
	return x
}}

// release gives the exchange back for reuse.
func (x *exchange) release() {
	done := x.call.Done
	x.call, x.query = serving.Call{Done: done}, nil
	exchanges.Put(x)
}

// clientLeft is the status that metrics give a request whose client left.
const clientLeft = 499

// serveHTTP answers one request.
func (f *Front) serveHTTP(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	id := requestID(r)
	e, found := f.registry.Route(r.URL.Path)
	name := ""
	if found {
		name = e.Name
	}
	route := f.metrics.Get(name)
	defer f.recovered(w, r, id, route, start)
	who, denied := f.admit(r, e)
	var status int
	switch {
	case f.draining.Load() && r.URL.Path != "/livez":
		hangUp(w, r)
		status = fail(w, id, serving.Errorf(serving.Draining, "the server is shutting down"), false)
	case denied != nil:
		hangUpWithin(w, r)
		status = f.deny(w, r, id, denied)
	case found:
		status = f.query(w, r, id, e)
	default:
		status = f.other(w, withCaller(r, who), id)
	}
	route.Request(status, time.Since(start))
}

// recovered turns a panic of ours into an answer, so that it fails one request.
func (f *Front) recovered(w http.ResponseWriter, r *http.Request, id string, route *telemetry.Route, start time.Time) {
	v := recover()
	if v == nil {
		return
	}
	if v == http.ErrAbortHandler { //nolint:errorlint // net/http compares it the same way
		panic(v)
	}
	f.opts.Logger.Error("a request made the server panic", "request", id, "path", r.URL.Path, "panic", v, "stack", string(debug.Stack()))
	route.Request(fail(w, id, errPanicked, false), time.Since(start))
}

// errPanicked is what a client is told of a panic; the log tells the rest.
var errPanicked = errors.New("the server failed to handle the request")

// other answers requests for paths that are no endpoint's.
func (f *Front) other(w http.ResponseWriter, r *http.Request, id string) int {
	hurry(w, r)
	if !isOwn(r.URL.Path) {
		return fail(w, id, notFound(r.URL.Path), false)
	}
	handler, pattern := f.own.Handler(r)
	if pattern == "" {
		return wrongMethod(w, r.Method, r.URL.Path, id, "GET, HEAD")
	}
	recorder := &statusRecorder{ResponseWriter: w, status: http.StatusOK}
	handler.ServeHTTP(recorder, r)
	return recorder.status
}

func notFound(path string) error {
	return serving.Errorf(serving.EndpointNotFound, "no endpoint has the route %q; GET /-/routes lists those that exist", path)
}

func isOwn(path string) bool {
	return path == "/livez" || path == "/readyz" || path == "/metrics" || path == "/-/routes" || path == "/openapi.json"
}

// statusRecorder remembers the status of an answer.
type statusRecorder struct {
	http.ResponseWriter
	status int
}

// WriteHeader implements http.ResponseWriter.
func (s *statusRecorder) WriteHeader(status int) {
	s.status = status
	s.ResponseWriter.WriteHeader(status)
}

// methodNotAllowed is not in serving's table: only HTTP has methods.
const methodNotAllowed serving.Code = "MethodNotAllowed"

func wrongMethod(w http.ResponseWriter, method, path, id, allow string) int {
	w.Header().Set("Allow", allow)
	if method == http.MethodOptions {
		w.WriteHeader(http.StatusNoContent)
		return http.StatusNoContent
	}
	p := problem.Of(serving.Errorf(methodNotAllowed, "the route %q takes %s, not %s", path, allow, method))
	p.Status = http.StatusMethodNotAllowed
	return write(w, id, p)
}

// query computes one query and answers with its response.
func (f *Front) query(w http.ResponseWriter, r *http.Request, id string, e *serving.Endpoint) int {
	if !e.Takes(r.Method) {
		hurry(w, r)
		return wrongMethod(w, r.Method, r.URL.Path, id, e.Allow)
	}
	terms, err := termsOf(r)
	if err != nil {
		hurry(w, r)
		return fail(w, id, err, false)
	}
	x, err := f.submit(w, r, id, e, terms)
	if err != nil {
		return f.failQuery(w, r, id, err)
	}
	config := x.call.Backend.Config()
	if err := x.wait(r.Context(), allowed(terms.timeout, config)); err != nil {
		if errors.Is(err, context.Canceled) {
			return leave(w, r)
		}
		return fail(w, id, err, false)
	}
	if errors.Is(x.call.Err, context.Canceled) && r.Context().Err() != nil {
		return leave(w, r)
	}
	status := f.answer(w, x.query, &x.call, config.ExposeTraceback)
	x.release()
	return status
}

// submit reads the body and submits the query.
func (f *Front) submit(w http.ResponseWriter, r *http.Request, id string, e *serving.Endpoint, terms terms) (*exchange, error) {
	body, held, err := f.body(w, r)
	defer f.arriving.Give(held) // then the queue has counted it
	if err != nil {
		return nil, &bodyError{err}
	}
	x := exchanges.Get().(*exchange)
	x.fill(r, id, body)
	terms.apply(&x.call, time.Now())
	if err := e.Submit(&x.call); err != nil {
		x.release()
		return nil, err
	}
	return x, nil
}

// bodyError tells that a body could not be read.
type bodyError struct{ err error }

func (e *bodyError) Error() string { return "reading the body: " + e.err.Error() }

// Unwrap returns why.
func (e *bodyError) Unwrap() error { return e.err }

// fill makes a call of a request.
func (x *exchange) fill(r *http.Request, id string, body []byte) {
	x.query = &query{request: serving.Request{ID: id, Method: r.Method, Target: r.RequestURI, Host: r.Host, Header: r.Header, Check: checkBody, Body: body}}
	if !strings.HasPrefix(r.RequestURI, "/") { // as clients write it to a proxy
		x.request.Target = r.URL.RequestURI()
	}
	x.call.Context, x.call.Origin, x.call.Request = r.Context(), batch.Web, &x.request
	if method := r.Header["X-Serve-Call-Method"]; len(method) > 0 {
		x.call.Method = method[0]
	}
	if key := r.Header["X-Serve-Shard-Key"]; len(key) > 0 {
		x.call.ShardKey = key[0]
	}
}

// wait waits for the answer. On an error the exchange must not be used any more.
func (x *exchange) wait(ctx context.Context, timeout time.Duration) error {
	x.timer.Reset(timeout)
	select {
	case <-x.done:
		x.timer.Stop()
		return nil
	case <-ctx.Done():
		x.call.Withdraw()
		x.timer.Stop()
		return context.Canceled
	case <-x.timer.C:
		x.call.Withdraw()
		return noAnswer(x.call.Backend, timeout)
	}
}

func noAnswer(b serving.Backend, timeout time.Duration) error {
	return serving.Errorf(serving.DeadlineExceeded, "backend %q gave no answer within %v", b.Name(), timeout)
}

// allowed is how long a query may take: what the client allows, if it does, and
// never more than the backend.
func allowed(client time.Duration, config serving.Config) time.Duration {
	if backend := time.Duration(config.Timeout); client == 0 || client > backend {
		return backend
	}
	return client
}

// answer writes the response, or the error, of a call that is done.
func (f *Front) answer(w http.ResponseWriter, q *query, c *serving.Call, exposeTraceback bool) int {
	q.set(w.Header(), "Shoal-Backend", c.Backend.Name())
	if c.Trip.BatchID != 0 && !f.opts.NoServerTiming {
		q.set(w.Header(), "Server-Timing", string(appendServerTiming(make([]byte, 0, 128), c.Trip)))
	}
	if c.Err == nil {
		return q.respond(w, &c.Response)
	}
	f.failures.Tell(q.request.ID, c)
	return fail(w, q.request.ID, c.Err, exposeTraceback)
}

// fail answers with an error.
func fail(w http.ResponseWriter, id string, err error, exposeTraceback bool) int {
	p := problem.Of(err)
	if !exposeTraceback {
		p.Traceback = ""
	}
	if bad, ok := errors.AsType[*jsonError](err); ok {
		p.Offset, p.Line, p.Column = &bad.offset, bad.line, bad.column
	}
	return write(w, id, p)
}

func write(w http.ResponseWriter, id string, p problem.Problem) int {
	w.Header().Set("X-Request-Id", id)
	p.Instance = id
	p.Write(w)
	return p.Status
}

// leave ends a request whose client left. One that closed only its own half of
// the connection still reads, and must not be told that all is well.
func leave(w http.ResponseWriter, r *http.Request) int {
	hangUp(w, r)
	w.WriteHeader(clientLeft)
	return clientLeft
}

// hangUp closes the connection after the answer: what is left of the request is
// not read. In HTTP/2 the stream ends by itself, and other requests share the
// connection.
func hangUp(w http.ResponseWriter, r *http.Request) {
	if r.ProtoMajor == 1 {
		w.Header().Set("Connection", "close")
		hurry(w, r)
	}
}

// hangUpWithin hangs up on a client whose request has a body, which nobody will read.
func hangUpWithin(w http.ResponseWriter, r *http.Request) {
	if r.ContentLength != 0 {
		hangUp(w, r)
	}
}

// hurry bounds how long net/http waits for the rest of a body that nobody wants, which
// it reads before it sends a short answer, and again when it closes the connection.
func hurry(w http.ResponseWriter, r *http.Request) {
	if r.ProtoMajor == 1 && r.ContentLength != 0 {
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(lingerTime)) // not every ResponseWriter has deadlines
	}
}

// lingerTime is how long a client has to read the last answer before what it still
// sends would destroy it.
const lingerTime = 500 * time.Millisecond

// failQuery answers a query that no backend took.
func (f *Front) failQuery(w http.ResponseWriter, r *http.Request, id string, err error) int {
	if _, ok := errors.AsType[*bodyError](err); !ok {
		return fail(w, id, err, false)
	}
	if tooLarge, ok := errors.AsType[*http.MaxBytesError](err); ok {
		hangUp(w, r)
		return fail(w, id, serving.Errorf(serving.TooLarge, "the body is larger than %d bytes", tooLarge.Limit), false)
	}
	if full, ok := errors.AsType[*serving.Error](err); ok {
		f.opts.Metrics.Refused("http", "inflight_bytes")
		hangUp(w, r)
		return fail(w, id, full, false)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		hangUp(w, r)
		return write(w, id, tooSlow())
	}
	if r.Context().Err() != nil {
		return leave(w, r)
	}
	hangUp(w, r)
	return fail(w, id, serving.Errorf(serving.InvalidArgument, "%v", err), false)
}

// tooManyConnections is the answer to a connection that is one too many, whatever it
// would ask.
func tooManyConnections() []byte {
	p := problem.Of(serving.Errorf(serving.QueueFull, "as many connections are open as max_connections allows; try again later"))
	header := make(http.Header)
	body := p.Encode(header)
	header.Set("Connection", "close")
	answer := http.Response{
		StatusCode: p.Status, ProtoMajor: 1, ProtoMinor: 1, Header: header, ContentLength: int64(len(body)), Body: io.NopCloser(bytes.NewReader(body)),
	}
	var out bytes.Buffer
	_ = answer.Write(&out) // to memory
	return out.Bytes()
}

// tooSlow is the problem of a body that did not arrive in time.
func tooSlow() problem.Problem {
	p := problem.Of(serving.Errorf(serving.DeadlineExceeded, "the body did not arrive in time"))
	p.Status = http.StatusRequestTimeout
	return p
}
