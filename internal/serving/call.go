package serving

import (
	"context"
	"net/http"
	"sync"
	"time"

	"github.com/shoalserve/shoal/batch"
	"github.com/shoalserve/shoal/internal/tensor"
)

// Call is one query as a front sees it: not yet typed, or never to be. The front
// fills the fields up to Done, gives the call to [Endpoint.Submit], and reads
// the rest once Done was called.
type Call struct {
	// Context ends the query while it waits; nil means never.
	Context context.Context
	Origin  batch.Origin
	// Request is what a web query brought; nil for API queries.
	Request *Request
	// Args is what an API query brought.
	Args Args
	// Method names the method of a class to call; empty means the model itself.
	Method string
	// ShardKey makes queries with the same key go to the same backend.
	ShardKey string
	// Done is called exactly once if Submit returned nil. It must not block.
	Done func(*Call)
	// Caller names who asks, for fair shares between callers: the key that the
	// caller showed, where the front knows it, else whatever the caller calls
	// itself. It may be empty.
	Caller string
	// Priority is between batch.MinPriority and batch.MaxPriority.
	Priority int
	// Arrived and Timeout tell the call's deadline where its Context does not: when
	// the front had it, and how long the caller waits, 0 for as long as the backend
	// allows. A zero Arrived means that there is no deadline.
	Arrived time.Time
	Timeout time.Duration

	// Backend is the backend that took the call.
	Backend Backend
	// Response is the answer, when Err is nil.
	Response Response
	Err      error
	Trip     batch.Trip

	row     *tensor.Row                  // while the call is with a backend that takes arrays
	writing *sync.WaitGroup              // of that backend
	query   batch.Query[*Call, Response] // for backends that compute calls as they are
	typed   any                          // for backends that decode calls first: their query
	watched *watched                     // nil unless the call's end is watched
}

// Withdraw takes a call that was submitted out of its backend's queue. It
// reports true if the call had not left for a replica: then it will not run and
// Done will not be called.
func (c *Call) Withdraw() bool { return c.Backend.Withdraw(c) }

// deadline is when the answer must be there, with a backend that allows so much
// time; zero if only the call's Context tells.
func (c *Call) deadline(backend time.Duration) time.Time {
	if c.Arrived.IsZero() {
		return time.Time{}
	}
	if c.Timeout > 0 && c.Timeout < backend {
		backend = c.Timeout
	}
	return c.Arrived.Add(backend)
}

// Size is what the call brought, in bytes, and the row that was made of it.
func (c *Call) Size() int64 {
	n := len(c.Args.Head) + len(c.Args.Payload)
	if r := c.Request; r != nil {
		n += len(r.Body) + len(r.Head)
		if r.Head == nil {
			n += len(r.Target) + headerSize(r.Header)
		}
	}
	if c.row != nil {
		n += c.row.Bytes()
	}
	return int64(n)
}

// headerSize is what headers take in memory, about.
func headerSize(h http.Header) (n int) {
	for name, values := range h {
		n += len(name)
		for _, value := range values {
			n += len(value)
		}
	}
	return n
}

// Row is the call as arrays, where its backend takes them; else nil. A runtime
// reads it before it completes the call's batch, and not after.
func (c *Call) Row() *tensor.Row { return c.row }

// BatchKey is what calls must have in common to share a batch: the method, and for
// rows their datatypes and shapes.
func (c *Call) BatchKey() string {
	if c.row != nil {
		return c.row.Key()
	}
	return c.Method
}

// Reset makes a call that is done ready for another query, with the same Done. It
// lets go of all that the last one brought.
func (c *Call) Reset() { *c = Call{Done: c.Done} }

// Request is a web query. Its headers are read with [Request.Get],
// [Request.Values] and [Request.Headers].
type Request struct {
	ID     string
	Method string
	// Target is the path and query as the client sent them.
	Target string
	// Host is what the client asked for in the header of that name, which
	// net/http keeps apart from Header.
	Host string
	// Header are the headers, and Head is nil; or a front that has it as text
	// sets Head to the whole web head, which says all of the above, and neither
	// changes nor reuses it.
	Header http.Header
	Head   []byte
	// Check reports a Body that is not what its content type says; nil: there is
	// nothing to look for. The backend calls it before the body is in a batch, where it
	// would hurt others, unless it reads the body itself: that is looking enough.
	Check func(*Request) error
	// Body must not be changed from when the call is submitted until it is done,
	// nor ever where the endpoint has shadows: a row may refer to it.
	Body []byte
}

// CheckBody calls Check, if there is one; r may be nil.
func (r *Request) CheckBody() error {
	if r == nil || r.Check == nil {
		return nil
	}
	return r.Check(r)
}

// Args are the arguments of an API query: bytes that only the model's side
// reads. See "api head" in docs/protocol.md.
type Args struct {
	Head, Payload []byte
}

// Format tells how an answer's body is to be read. The values are the codes of
// docs/protocol.md.
type Format uint8

// The formats of an answer.
const (
	JSON   Format = 1
	Text   Format = 2
	Bytes  Format = 3
	Full   Format = 4 // with Status and Header of its own
	Pickle Format = 6 // for API queries that sent a pickle
)

// Response is a model's answer.
type Response struct {
	Format Format
	// Status is the HTTP status; 0 means 200.
	Status int
	// Header holds what a Full answer sets; nil for the others.
	Header http.Header
	Body   []byte
	// Item is what a runtime answers with instead of Body where the answer is an
	// array. The backend writes it to Body before the call is done, so that no front
	// sees it. The item's memory must last until the batch is completed.
	Item tensor.Item
}
