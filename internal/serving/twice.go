package serving

import (
	"bytes"
	"errors"

	"github.com/shoalserve/shoal/batch"
)

// callsTwice is [twice] of calls.
type callsTwice struct{}

func (callsTwice) keep(q *batch.Query[*Call, Response]) (k kept[*Call], ok bool) {
	c := q.In
	if len(c.Args.Payload) > maxPaired || (c.Request != nil && len(c.Request.Body) > maxPaired) {
		return k, false
	}
	k.answer = Answer{Err: q.Err, Response: q.Out}.copied()
	k.in = &Call{Origin: c.Origin, Method: c.Method, Args: Args{Head: bytes.Clone(c.Args.Head), Payload: bytes.Clone(c.Args.Payload)}}
	if c.Request != nil {
		request := *c.Request
		request.Body = bytes.Clone(request.Body)
		k.in.Request, k.request = &request, request.ID
	}
	return k, !k.answer.tooLarge()
}

func (callsTwice) prepare(backend string, of Instance[*Call, Response], c *Call) error {
	return decode(of, backend, c)
}

func (callsTwice) answer(q *batch.Query[*Call, Response]) Answer {
	q.In.releaseRow()
	return Answer{Err: q.Err, Response: q.Out}.copied()
}

func (callsTwice) release(c *Call) { c.releaseRow() }

// typedTwice is [twice] of a Go model's queries. Their inputs are not copied.
type typedTwice[In, Out any] struct {
	backend string
	codec   Codec[In, Out]
}

func (t typedTwice[In, Out]) keep(q *batch.Query[In, Out]) (k kept[In], ok bool) {
	k.in, k.answer = q.In, t.answer(q)
	return k, !k.answer.tooLarge()
}

func (typedTwice[In, Out]) prepare(string, Instance[In, Out], In) error { return nil }

func (t typedTwice[In, Out]) answer(q *batch.Query[In, Out]) (a Answer) {
	a.Response, a.Err = t.codec.answer(&Call{Origin: q.Origin}, q.Out, ModelFailure(t.backend, q.Err, q.Trip))
	return a.copied()
}

func (typedTwice[In, Out]) release(In) {}

// tooLarge reports whether there was more of an answer than is kept.
func (a Answer) tooLarge() bool { return errors.Is(a.Err, errTooLarge) }

// copied is an answer in memory of its own, or errTooLarge in its place.
func (a Answer) copied() Answer {
	body, item := a.Response.Body, a.Response.Item
	if len(body) > maxPaired || (!item.IsZero() && item.Size() > maxPaired) {
		return Answer{Err: errTooLarge}
	}
	a.Response.Body = bytes.Clone(body)
	if !item.IsZero() {
		a.Response.Item = item.Clone()
	}
	return a
}

// written is an answer that is an array as JSON, any other as it is.
func (a Answer) written() Answer {
	if a.Err != nil || a.Response.Item.IsZero() {
		return a
	}
	c := Call{Response: a.Response}
	c.writeItem(false)
	return Answer{Err: c.Err, Response: c.Response}
}
