package shoal

import (
	"context"
	"fmt"

	"github.com/shoalserve/shoal/batch"
	"github.com/shoalserve/shoal/internal/runtime/gofunc"
	"github.com/shoalserve/shoal/internal/serving"
)

// Model is what a backend runs; [Batch], [Single] and [Stateful] make one.
type Model interface {
	start(ctx context.Context, name string, config serving.Config, deps serving.Deps) (serving.Backend, error)
}

// Predictor is a model with state. Each replica has one of its own.
type Predictor[In, Out any] interface {
	// Predict computes one batch: as many answers as queries, in their order.
	Predict(ctx context.Context, in []In) ([]Out, error)
}

// Initializer is a Predictor that loads something before its first batch.
type Initializer interface {
	Init(ctx context.Context) error
}

// Closer is a Predictor that has something to release after its last batch.
type Closer interface{ Close() error }

// GoModel is a model in this process. Its zero options are the usual ones; set
// them on what [Batch], [Single] or [Stateful] return.
type GoModel[In, Out any] struct {
	// Key tells which queries may share a batch: those with the same key.
	Key func(In) string
	// Cost is what a query counts against MaxBatchSize, such as its rows.
	Cost func(In) int
	// Size is what a query counts against MaxQueuedBytes, in bytes. Without it a query
	// over HTTP counts its body, others nothing.
	Size func(In) int64
	// Split cuts a query that costs more than max into parts that cost at most
	// max each, and Join makes one answer of theirs; without them such a query
	// is refused with a *[TooLargeError].
	Split func(in In, max int) []In
	Join  func([]Out) (Out, error)
	// WarmUp are queries that a new replica computes before it gets others, each
	// in batches of 1, 2, 4 … and MaxBatchSize. A replica that fails is not used:
	// the error is a *[LoadError].
	WarmUp []In
	// Decode makes the model's input from an HTTP request. By default an In of
	// type *Request is the request itself, []byte and string are its body, and
	// any other is read from a JSON body or, without one, from the query parameters.
	Decode func(*Request) (In, error)
	// Encode makes the HTTP response from the model's output. By default a
	// *Response is the response itself, []byte and string are sent as they are,
	// and any other is written as JSON.
	Encode func(Out) (*Response, error)

	runtime gofunc.Runtime[In, Out]
}

// Batch makes a model of a function that computes a batch: it returns one
// answer for each query, in their order, or an error for all, or [ItemErrors].
func Batch[In, Out any](fn func(ctx context.Context, in []In) ([]Out, error)) *GoModel[In, Out] {
	return newModel(true, func(context.Context) (batch.Func[In, Out], func() error, error) {
		return fn, nil, nil
	})
}

// Single makes a model of a function that computes one query at a time.
func Single[In, Out any](fn func(ctx context.Context, in In) (Out, error)) *GoModel[In, Out] {
	one := func(ctx context.Context, in []In) ([]Out, error) {
		out := make([]Out, len(in))
		for i := range in {
			var err error
			if out[i], err = fn(ctx, in[i]); err != nil {
				return nil, err
			}
		}
		return out, nil
	}
	return newModel(false, func(context.Context) (batch.Func[In, Out], func() error, error) {
		return one, nil, nil
	})
}

// Stateful makes a model of a type with state: create is called once for each
// replica, then Init if it has one, and after the last batch Close if it has one.
func Stateful[In, Out any](create func() Predictor[In, Out]) *GoModel[In, Out] {
	return newModel(true, func(ctx context.Context) (batch.Func[In, Out], func() error, error) {
		p := create()
		if i, ok := p.(Initializer); ok {
			if err := i.Init(ctx); err != nil {
				return nil, nil, fmt.Errorf("initializing the model: %w", err)
			}
		}
		if c, ok := p.(Closer); ok {
			return p.Predict, c.Close, nil
		}
		return p.Predict, nil, nil
	})
}

func newModel[In, Out any](batched bool, create func(context.Context) (batch.Func[In, Out], func() error, error)) *GoModel[In, Out] {
	return &GoModel[In, Out]{runtime: gofunc.Runtime[In, Out]{New: create, Batched: batched}}
}

func (m *GoModel[In, Out]) start(ctx context.Context, name string, config serving.Config, deps serving.Deps) (serving.Backend, error) {
	model := serving.Model[In, Out]{
		Kind: "go", Runtime: m.runtime, Key: m.Key, Cost: m.Cost, Size: m.Size, Split: m.Split, Join: m.Join,
	}
	if len(m.WarmUp) > 0 {
		model.WarmUp = m.rehearsals
	}
	pool, err := serving.NewTypedPool(ctx, name, model, codec[In, Out]{m.Decode, m.Encode}.serving(), config, deps)
	if err != nil {
		return nil, err
	}
	return pool, nil
}

// rehearsals are the model's warm-up.
func (m *GoModel[In, Out]) rehearsals(serving.Config, serving.Instance[In, Out]) []serving.Rehearsal[In, Out] {
	var all []serving.Rehearsal[In, Out]
	for _, in := range m.WarmUp {
		all = append(all, serving.Rehearsal[In, Out]{Origin: batch.API, Make: func() (In, error) { return in, nil }})
	}
	return all
}

// Origin returns the origin of the batch that a model computes: [batch.Web]
// for HTTP queries, [batch.API] for handles. One batch never holds both.
func Origin(ctx context.Context) batch.Origin { return batch.OriginOf(ctx) }
