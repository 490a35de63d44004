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
	if call.Request != nil {
		broken := *call.Request
		broken.Target, broken.Body = "/", []byte("\x00 no query of anybody's")
		return &Call{Origin: call.Origin, Method: call.Method, Request: &broken}, true
	}
	return &Call{Origin: call.Origin, Method: call.Method, Args: Args{Head: jsonHead, Payload: []byte(`{"data": "\u0000", "kwargs": {}}`)}}, true
}

var jsonHead = []byte(`{"encoding":"json"}`)

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

// typedSubject is [subject] of a Go model's queries. What cannot be decoded is refused
// before it is in a batch, so there are no broken ones.
type typedSubject[In, Out any] struct{ pool *TypedPool[In, Out] }

func (s typedSubject[In, Out]) input(_ Instance[In, Out], item WarmUpRequest) (in In, group batch.Group, err error) {
	call, err := item.call()
	if err != nil {
		return in, group, Errorf(InvalidArgument, "it cannot be written as JSON: %v", err)
	}
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

func (typedSubject[In, Out]) broken(Instance[In, Out], WarmUpRequest) (none In, ok bool) {
	return none, false
}

func (typedSubject[In, Out]) release(In) {}

func (typedSubject[In, Out]) answered(*batch.Query[In, Out]) {}

func (s typedSubject[In, Out]) answer(origin batch.Origin, out Out, err error) (a Answer) {
	if a.Err = ModelFailure(s.pool.Name(), err, batch.Trip{}); a.Err == nil {
		a.Response, a.Err = guard(func() (Response, error) { return s.pool.codec.Encode(&Call{Origin: origin}, out) })
	}
	return a
}
