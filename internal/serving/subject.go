package serving

import (
	"context"

	"github.com/shoalserve/shoal/batch"
)

// subject is how the queries of a kind of model are made up to be verified.
type subject[In, Out any] interface {
	// input is an item as an instance takes it, anew each time, and the group of those
	// that it may share a batch with.
	input(of Instance[In, Out], item WarmUpRequest) (In, batch.Group, error)
	// broken is a query that the model cannot compute and that shares batches with the
	// item; false where every such query is refused before it is in a batch.
	broken(of Instance[In, Out], item WarmUpRequest) (In, bool)
	// release is for inputs that are not computed.
	release(In)
	// answered is called for each query before its answer's memory may be used again.
	answered(*batch.Query[In, Out])
	// answer is what came of a query.
	answer(batch.Origin, Out, error) Answer
}

// Verify implements [Verifier].
func (p CallPool) Verify(ctx context.Context, spec VerifySpec) (VerifyReport, error) {
	return verify(ctx, p.Pool, callSubject{p.Name()}, spec)
}

// callSubject is [subject] of calls.
type callSubject struct{ backend string }

func (s callSubject) input(of Instance[*Call, Response], item WarmUpRequest) (*Call, batch.Group, error) {
	call, err := item.call()
	if err != nil {
		return nil, batch.Group{}, Errorf(InvalidArgument, "it cannot be written as JSON: %v", err)
	}
	if err := decode(of, s.backend, call); err != nil {
		return nil, batch.Group{}, err
	}
	return call, batch.Group{Origin: call.Origin, Key: call.BatchKey()}, nil
}

func (s callSubject) broken(of Instance[*Call, Response], item WarmUpRequest) (*Call, bool) {
	call, _, err := s.input(of, item)
	if err != nil {
		return nil, false
	}
	if call.row != nil {
		call.releaseRow()
		return nil, false
	}
	return call.broken(), true
}

var jsonHead = []byte(`{"encoding":"json"}`)

// broken is a call like this one, with what nobody's model can compute.
func (c *Call) broken() *Call {
	if c.Request != nil {
		request := *c.Request
		request.Target, request.Body = "/", []byte("\x00 no query of anybody's")
		return &Call{Origin: c.Origin, Method: c.Method, Request: &request}
	}
	return &Call{Origin: c.Origin, Method: c.Method, Args: Args{Head: jsonHead, Payload: []byte(`{"data": "\u0000", "kwargs": {}}`)}}
}

func (callSubject) release(c *Call) { c.releaseRow() }

// answered brings the answer of a query to its final form.
func (callSubject) answered(q *batch.Query[*Call, Response]) {
	call := q.In
	call.releaseRow()
	if q.Err == nil && !q.Out.Item.IsZero() {
		call.Response = q.Out
		call.writeItem(false)
		q.Out, q.Err = call.Response, call.Err
	}
}

func (callSubject) answer(_ batch.Origin, out Response, err error) Answer {
	return Answer{Err: err, Response: out}
}

// Verify implements [Verifier].
func (p *TypedPool[In, Out]) Verify(ctx context.Context, spec VerifySpec) (VerifyReport, error) {
	return verify(ctx, p.Pool, typedSubject[In, Out]{p}, spec)
}

// typedSubject is [subject] of a Go model's queries.
type typedSubject[In, Out any] struct{ pool *TypedPool[In, Out] }

func (s typedSubject[In, Out]) input(_ Instance[In, Out], item WarmUpRequest) (in In, group batch.Group, err error) {
	call, err := item.call()
	if err != nil {
		return in, group, Errorf(InvalidArgument, "it cannot be written as JSON: %v", err)
	}
	return s.decode(call)
}

func (s typedSubject[In, Out]) decode(call *Call) (in In, group batch.Group, err error) {
	group.Origin = call.Origin
	in, err = guard(func() (In, error) {
		in, err := s.pool.codec.Decode(call)
		if err == nil && s.pool.key != nil {
			group.Key = s.pool.key(in)
		}
		return in, err
	})
	return in, group, err
}

// broken is for models that read requests themselves, or take texts or bytes: what cannot
// be decoded is refused before it is in a batch.
func (s typedSubject[In, Out]) broken(_ Instance[In, Out], item WarmUpRequest) (in In, ok bool) {
	call, err := item.call()
	if err != nil {
		return in, false
	}
	_, of, err := s.decode(call)
	if err != nil {
		return in, false
	}
	in, group, err := s.decode(call.broken())
	return in, err == nil && group == of && s.cost(in) == 1
}

// cost is what an input counts in a batch, or 0 if the model cannot tell.
func (s typedSubject[In, Out]) cost(in In) int {
	if s.pool.cost == nil {
		return 1
	}
	cost, err := guard(func() (int, error) { return max(1, s.pool.cost(in)), nil })
	if err != nil {
		return 0
	}
	return cost
}

func (typedSubject[In, Out]) release(In) {}

func (typedSubject[In, Out]) answered(*batch.Query[In, Out]) {}

func (s typedSubject[In, Out]) answer(origin batch.Origin, out Out, err error) (a Answer) {
	a.Response, a.Err = s.pool.codec.answer(&Call{Origin: origin}, out, ModelFailure(s.pool.Name(), err, batch.Trip{}))
	return a
}
