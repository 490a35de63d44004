package shoal

import (
	"context"
	"fmt"
	"iter"
	"reflect"
	"sync"

	"github.com/shoalserve/shoal/batch"
	"github.com/shoalserve/shoal/internal/serving"
)

// Handle calls an endpoint from code. It stays valid while the endpoint's
// traffic and backends change.
type Handle[In, Out any] struct {
	app      *App
	endpoint string
	shardKey string
}

// GetHandle returns a handle to an endpoint, or [ErrEndpointNotFound]. If a
// backend of the endpoint is a Go model of other types, it is
// [ErrInvalidArgument]. Models in other languages are called with JSON: a struct
// or a map becomes keyword arguments, any other In the one positional argument.
func GetHandle[In, Out any](app *App, endpoint string) (*Handle[In, Out], error) {
	e, err := app.registry.Endpoint(endpoint)
	if err != nil {
		return nil, err
	}
	for _, b := range e.Backends() {
		if err := checkType[In, Out](b); err != nil {
			return nil, err
		}
	}
	return &Handle[In, Out]{app: app, endpoint: endpoint}, nil
}

func checkType[In, Out any](b serving.Backend) error {
	if _, ok := b.(*serving.TypedPool[In, Out]); ok || b.Kind() != "go" {
		return nil
	}
	return serving.Errorf(serving.InvalidArgument, "backend %q is not a model from %s to %s", b.Name(), reflect.TypeFor[In](), reflect.TypeFor[Out]())
}

// WithShardKey returns a handle whose queries all go to the same backend of the
// traffic's split.
func (h *Handle[In, Out]) WithShardKey(key string) *Handle[In, Out] {
	c := *h
	c.shardKey = key
	return &c
}

// String names the endpoint and shows its traffic.
func (h *Handle[In, Out]) String() string {
	s, err := h.app.registry.EndpointStatus(h.endpoint)
	if err != nil {
		return fmt.Sprintf("Handle(endpoint=%q, deleted)", h.endpoint)
	}
	return fmt.Sprintf("Handle(endpoint=%q, traffic=%v)", h.endpoint, s.Traffic)
}

// Call computes one query and waits for its answer. Errors are ctx's own,
// [ErrQueueFull], a *[ModelError] and the others of this package.
func (h *Handle[In, Out]) Call(ctx context.Context, in In) (out Out, err error) {
	e, err := h.app.registry.Endpoint(h.endpoint)
	if err != nil {
		return out, err
	}
	if e.HasShadows() {
		return h.Remote(ctx, in).Get(ctx)
	}
	err = e.Try(h.shardKey, func(b serving.Backend) (err error) {
		if pool, ok := b.(*serving.TypedPool[In, Out]); ok {
			out, err = pool.Do(ctx, in) // without a reference, there is nothing to allocate
		} else {
			out, err = h.Remote(ctx, in).Get(ctx)
		}
		return err
	})
	return out, err
}

// Remote submits one query and returns at once with a reference to its answer.
// When ctx ends while the query waits, it leaves the queue.
func (h *Handle[In, Out]) Remote(ctx context.Context, in In) *Ref[Out] {
	q := newRemote[In, Out](ctx, in)
	if err := h.submit(q); err != nil {
		var none Out
		q.ref.finish(none, err, batch.Trip{})
	}
	return &q.ref
}

// Map computes a sequence of queries and yields their answers in order. It
// keeps as many in flight as fill batches, and never more than window (default
// 1024 when it is 0), so that it may be given more than fits into memory.
func (h *Handle[In, Out]) Map(ctx context.Context, inputs iter.Seq[In], window int) iter.Seq2[Out, error] {
	if window <= 0 {
		window = 1024
	}
	return func(yield func(Out, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel() // withdraws what is in flight when the loop is left
		var flight []*Ref[Out]
		for in := range inputs {
			if len(flight) == window {
				if !yield(flight[0].Get(ctx)) {
					return
				}
				flight = flight[1:]
			}
			flight = append(flight, h.Remote(ctx, in))
		}
		for _, ref := range flight {
			if !yield(ref.Get(ctx)) {
				return
			}
		}
	}
}

// remote is a query in flight and the reference to its answer.
type remote[In, Out any] struct {
	query   batch.Query[In, Out]
	ref     Ref[Out]
	backend string

	mu       sync.Mutex
	answered bool
	unwatch  func() bool // ends the watch over the context
}

// submit brings a query to the backend that the traffic chooses.
func (h *Handle[In, Out]) submit(q *remote[In, Out]) error {
	e, err := h.app.registry.Endpoint(h.endpoint)
	if err != nil {
		return err
	}
	var withdraw func() bool
	err = e.Try(h.shardKey, func(b serving.Backend) (err error) {
		withdraw, err = q.submitTo(b)
		return err
	})
	if err != nil {
		return err
	}
	if q.query.Context.Done() != nil {
		q.watch(withdraw)
	}
	e.Shadows(func(ctx context.Context, cancel context.CancelFunc, b serving.Backend) {
		shadow := newRemote[In, Out](ctx, q.query.In)
		shadow.ref.then = cancel
		if _, err := shadow.submitTo(b); err != nil {
			cancel() // a shadow that is full counts it in its own metrics
		}
	})
	return nil
}

func newRemote[In, Out any](ctx context.Context, in In) *remote[In, Out] {
	q := &remote[In, Out]{}
	q.ref.done = make(chan struct{})
	q.query = batch.Query[In, Out]{Context: ctx, In: in, Origin: batch.API, Done: q.done}
	return q
}

// submitTo submits the query to one backend: as it is to a model of the same
// types, in JSON to a model in another language.
func (q *remote[In, Out]) submitTo(b serving.Backend) (withdraw func() bool, err error) {
	q.backend = b.Name()
	if pool, ok := b.(*serving.TypedPool[In, Out]); ok {
		return func() bool { return pool.WithdrawQuery(&q.query) }, pool.SubmitQuery(&q.query)
	}
	if err := checkType[In, Out](b); err != nil {
		return nil, err
	}
	args, err := encodeArgs(q.query.In)
	if err != nil {
		return nil, err
	}
	call := &serving.Call{Context: q.query.Context, Origin: batch.API, Args: args, Backend: b, Done: q.called}
	return call.Withdraw, b.Submit(call)
}

// done is called with the answer of a Go model.
func (q *remote[In, Out]) done(*batch.Query[In, Out]) {
	q.finish(q.query.Out, serving.ModelFailure(q.backend, q.query.Err, q.query.Trip), q.query.Trip)
}

// called is called with the answer of a model in another language.
func (q *remote[In, Out]) called(c *serving.Call) {
	var out Out
	err := c.Err
	if err == nil {
		out, err = decodeResponse[Out](c.Response)
	}
	q.finish(out, err, c.Trip)
}

func (q *remote[In, Out]) finish(out Out, err error, trip batch.Trip) {
	q.mu.Lock()
	q.answered = true
	unwatch := q.unwatch
	q.mu.Unlock()
	if unwatch != nil {
		unwatch()
	}
	q.ref.finish(out, err, trip)
}

// watch takes the query out of the queue when its context ends.
func (q *remote[In, Out]) watch(withdraw func() bool) {
	ctx := q.query.Context
	unwatch := context.AfterFunc(ctx, func() {
		if withdraw() {
			var none Out
			q.ref.finish(none, fmt.Errorf("backend %q: the query was dropped before it ran: %w", q.backend, context.Cause(ctx)), batch.Trip{})
		}
	})
	q.mu.Lock()
	q.unwatch = unwatch
	answered := q.answered
	q.mu.Unlock()
	if answered {
		unwatch()
	}
}
