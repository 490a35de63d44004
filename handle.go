package shoal

import (
	"context"
	"fmt"
	"iter"
	"reflect"

	"github.com/shoalserve/shoal/batch"
	"github.com/shoalserve/shoal/internal/serving"
)

// Handle calls an endpoint from code. It stays valid while the endpoint's
// traffic and backends change.
type Handle[In, Out any] struct {
	app      *App
	endpoint string
	shardKey string
	caller   string
	priority int
	done     func(*batch.Query[In, Out]) // the Done of every query, made once
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
	done := func(q *batch.Query[In, Out]) { q.Tag.(*remote[In, Out]).done() }
	return &Handle[In, Out]{app: app, endpoint: endpoint, done: done}, nil
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

// WithCaller returns a handle whose queries are those of the caller of that name:
// callers get fair shares of a backend (docs/overload.md).
func (h *Handle[In, Out]) WithCaller(name string) *Handle[In, Out] {
	c := *h
	c.caller = name
	return &c
}

// WithPriority returns a handle whose queries leave their queue before those of a
// lower priority. It is a number from [MinPriority] to [MaxPriority], 0 unless it
// is set; what lies outside counts as the nearer of them.
func (h *Handle[In, Out]) WithPriority(priority int) *Handle[In, Out] {
	c := *h
	c.priority = priority
	return &c
}

// The priorities that a query may have.
const (
	MinPriority = batch.MinPriority
	MaxPriority = batch.MaxPriority
)

// String names the endpoint and shows its traffic.
func (h *Handle[In, Out]) String() string {
	s, err := h.app.registry.EndpointStatus(h.endpoint)
	if err != nil {
		return fmt.Sprintf("Handle(endpoint=%q, deleted)", h.endpoint)
	}
	return fmt.Sprintf("Handle(endpoint=%q, traffic=%v)", h.endpoint, s.Traffic)
}

// Call computes one query and waits for its answer. Errors are ctx's own, which come
// first once ctx has ended, [ErrQueueFull], a *[ModelError] and the others of this
// package. A ctx without a deadline waits as long as it takes: [Config].Timeout is for HTTP.
func (h *Handle[In, Out]) Call(ctx context.Context, in In) (out Out, err error) {
	e, err := h.app.registry.Endpoint(h.endpoint)
	if err != nil {
		return out, err
	}
	if e.HasShadows() || e.Watch() != nil {
		return h.Remote(ctx, in).Get(ctx)
	}
	err = e.Try(h.shardKey, func(b serving.Backend) (err error) {
		if pool, ok := b.(*serving.TypedPool[In, Out]); ok {
			out, err = pool.Do(ctx, in, h.caller, h.priority) // without a reference, there is nothing to allocate
		} else {
			out, err = h.Remote(ctx, in).Get(ctx)
		}
		return err
	})
	return out, err
}

// Remote submits one query and returns at once with a reference to its answer.
// When ctx ends while the query waits, it leaves the queue. A query whose ctx has no
// deadline has none: [Config].Timeout is for HTTP. The error of one that was being
// computed when ctx ended, and failed then, is the cause of ctx's end.
func (h *Handle[In, Out]) Remote(ctx context.Context, in In) *Ref[Out] {
	q := h.send(ctx, in)
	if ctx.Done() != nil {
		q.watch()
	}
	return &q.ref
}

// send is Remote without a watch over the context: when it ends, the query
// waits on, until its turn comes and it is dropped.
func (h *Handle[In, Out]) send(ctx context.Context, in In) *remote[In, Out] {
	q := h.newRemote(ctx, in)
	if err := h.submit(q); err != nil {
		var none Out
		q.finish(none, err, batch.Trip{})
	}
	return q
}

// Map computes a sequence of queries and yields their answers in order. It
// keeps as many in flight as fill batches, and never more than window (default
// 1024 when it is 0), so that it may be given more than fits into memory.
func (h *Handle[In, Out]) Map(ctx context.Context, inputs iter.Seq[In], window int) iter.Seq2[Out, error] {
	if window <= 0 {
		window = 1024
	}
	return func(yield func(Out, error) bool) {
		var flight []*remote[In, Out]
		defer func() { // when the loop is left early
			for _, q := range flight {
				q.withdraw()
			}
		}()
		for in := range inputs {
			if len(flight) == window {
				if !yield(flight[0].ref.Get(ctx)) {
					return
				}
				flight = flight[1:]
			}
			flight = append(flight, h.send(ctx, in))
		}
		for len(flight) > 0 {
			if !yield(flight[0].ref.Get(ctx)) {
				return
			}
			flight = flight[1:]
		}
	}
}

// remote is a query in flight and the reference to its answer, in one piece of
// memory.
type remote[In, Out any] struct {
	query batch.Query[In, Out]
	ref   Ref[Out]

	// Where the query is: a backend's name and either its pool or the call there.
	backend string
	pool    *serving.TypedPool[In, Out]
	call    *serving.Call

	told    func(backend string, err error, trip batch.Trip) // is told of the end; may be nil
	unwatch func() bool                                      // ends the watch over the context; guarded by ref.mu
}

func (h *Handle[In, Out]) newRemote(ctx context.Context, in In) *remote[In, Out] {
	q := &remote[In, Out]{}
	q.query.Context, q.query.In, q.query.Origin = ctx, in, batch.API
	q.query.Done, q.query.Tag = h.done, q
	q.query.Caller, q.query.Priority = h.caller, h.priority
	return q
}

// submit brings a query to the backend that the traffic chooses.
func (h *Handle[In, Out]) submit(q *remote[In, Out]) error {
	e, err := h.app.registry.Endpoint(h.endpoint)
	if err != nil {
		return err
	}
	q.told = e.Watch()
	if err := e.Try(h.shardKey, q.submitTo); err != nil || !e.HasShadows() {
		return err
	}
	e.Shadows(func(ctx context.Context, cancel context.CancelFunc, b serving.Backend) {
		shadow := h.newRemote(ctx, q.query.In)
		shadow.ref.then = cancel
		if err := shadow.submitTo(b); err != nil {
			cancel() // a shadow that is full counts it in its own metrics
		}
	})
	return nil
}

// submitTo submits the query to one backend: as it is to a model of the same
// types, in JSON to a model in another language.
func (q *remote[In, Out]) submitTo(b serving.Backend) error {
	q.backend, q.pool, q.call = b.Name(), nil, nil
	if pool, ok := b.(*serving.TypedPool[In, Out]); ok {
		q.pool = pool
		return pool.SubmitQuery(&q.query)
	}
	if err := checkType[In, Out](b); err != nil {
		return err
	}
	args, err := encodeArgs(q.query.In)
	if err != nil {
		return err
	}
	q.call = &serving.Call{
		Context: q.query.Context, Origin: batch.API, Args: args, Backend: b, Done: q.called,
		Caller: q.query.Caller, Priority: q.query.Priority,
	}
	return b.Submit(q.call)
}

// withdraw takes the query out of its queue. It reports true if the query had
// not left: then it gets no answer from there.
func (q *remote[In, Out]) withdraw() bool {
	switch {
	case q.ref.answered.Load(): // also if it was never submitted
		return false
	case q.pool != nil:
		return q.pool.WithdrawQuery(&q.query)
	}
	return q.call.Withdraw()
}

// done is called with the answer of a Go model.
func (q *remote[In, Out]) done() {
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
	if err != nil {
		err = ended(q.query.Context, err, trip)
	}
	if q.told != nil {
		q.told(q.backend, err, trip)
	}
	q.ref.finish(out, err, trip)
	if q.query.Context.Done() == nil {
		return // it is not watched
	}
	q.ref.mu.Lock()
	unwatch := q.unwatch
	q.ref.mu.Unlock()
	if unwatch != nil {
		unwatch()
	}
}

// ended is err or, for a query that ran and failed once its caller's context had
// ended, the cause of that: a model that is told that its callers have left fails, too,
// but not by itself.
func ended(ctx context.Context, err error, trip batch.Trip) error {
	if trip.BatchID != 0 && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// watch takes the query out of the queue when its context ends.
func (q *remote[In, Out]) watch() {
	ctx := q.query.Context
	unwatch := context.AfterFunc(ctx, func() {
		if q.withdraw() {
			var none Out
			q.ref.finish(none, fmt.Errorf("backend %q: the query was dropped before it ran: %w", q.backend, context.Cause(ctx)), batch.Trip{})
		}
	})
	q.ref.mu.Lock()
	q.unwatch = unwatch
	q.ref.mu.Unlock()
	if q.ref.answered.Load() {
		unwatch()
	}
}
