package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/shoalserve/shoal/batch"
	"github.com/shoalserve/shoal/internal/front/problem"
	"github.com/shoalserve/shoal/internal/serving"
)

func TestAQueryIsAnAPIQueryInJSON(t *testing.T) {
	for name, c := range map[string]struct {
		spec    QuerySpec
		payload string
	}{
		"nothing": {QuerySpec{}, `{"data":null,"kwargs":{}}`},
		"data":    {QuerySpec{Data: json.RawMessage(`[1,2]`)}, `{"data":[1,2],"kwargs":{}}`},
		"kwargs":  {QuerySpec{Kwargs: map[string]json.RawMessage{"n": json.RawMessage(`1`)}}, `{"data":null,"kwargs":{"n":1}}`},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, Options{})
			b := newFake("m")
			s.deploy(t, b)
			var calling sync.WaitGroup
			calling.Go(func() {
				answer, err := s.client.Query(t.Context(), "e", c.spec)
				if err != nil || string(answer.Body) != "2" {
					t.Errorf("Query = %s, %v", answer.Body, err)
				}
			})
			call := next(t, b.held)
			if call.Origin != batch.API || call.Request != nil || string(call.Args.Head) != `{"encoding":"json"}` || string(call.Args.Payload) != c.payload {
				t.Errorf("call is %v, head %s, payload %s", call.Origin, call.Args.Head, call.Args.Payload)
			}
			b.release(call, serving.Response{Format: serving.JSON, Body: []byte("2")}, nil)
			calling.Wait()
		})
	}
}

// A model may not say how its answer is framed, nor what only the server says.
func TestAModelChoosesOnlyItsOwnHeaders(t *testing.T) {
	s := serve(t, Options{})
	b := newFake("m")
	b.respond = func(c *serving.Call) {
		c.Response = serving.Response{Format: serving.JSON, Body: []byte("2"), Header: http.Header{
			"Connection": {"close"}, "shoal-backend": {"other"}, "X-Mine": {"yes"}, "X-Bad": {"a\nb"},
		}}
	}
	s.deploy(t, b)
	response := s.raw(t, "POST", "/v1/endpoints/e/query", `{"data":1}`)
	h := response.Header
	if response.Close || h.Get("Shoal-Backend") == "other" || h.Get("X-Mine") != "yes" || h["X-Bad"] != nil {
		t.Errorf("close %v, %v", response.Close, h)
	}
}

func TestAQueryInJSONHasItsTerms(t *testing.T) {
	s := serve(t, Options{})
	b := newFake("m")
	b.respond = func(c *serving.Call) {
		c.Response = serving.Response{Format: serving.Text, Body: fmt.Appendf(nil, "%s %d", c.Caller, c.Priority)}
	}
	s.deploy(t, b)
	answer, err := s.client.Query(t.Context(), "e", QuerySpec{Caller: "gold", Priority: 3})
	if err != nil || string(answer.Body) != "gold 3" {
		t.Errorf("got %q, %v", answer.Body, err)
	}
	_, err = s.client.Query(t.Context(), "e", QuerySpec{Priority: -4})
	wantCode(t, err, serving.InvalidArgument, "priority")
	_, err = s.client.Query(t.Context(), "e", QuerySpec{Caller: strings.Repeat("x", 129)})
	wantCode(t, err, serving.InvalidArgument, "caller")
}

func TestAnswersHaveTheirContentType(t *testing.T) {
	full := http.Header{"Content-Type": {"image/png"}, "X-Model": {"a", "b"}}
	for name, c := range map[string]struct {
		response    serving.Response
		status      int
		contentType string
	}{
		"json":  {serving.Response{Format: serving.JSON, Body: []byte("1")}, 200, "application/json"},
		"text":  {serving.Response{Format: serving.Text, Body: []byte("1")}, 200, "text/plain; charset=utf-8"},
		"bytes": {serving.Response{Format: serving.Bytes, Body: []byte("1")}, 200, "application/octet-stream"},
		"large": {serving.Response{Format: serving.Bytes, Body: make([]byte, 3*writeChunk+1)}, 200, "application/octet-stream"},
		"full":  {serving.Response{Format: serving.Full, Status: 418, Header: full, Body: []byte("1")}, 418, "image/png"},
		"none":  {serving.Response{Format: 99}, 500, problem.ContentType},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, Options{})
			b := newFake("m")
			b.respond = func(call *serving.Call) { call.Response = c.response }
			s.deploy(t, b)
			response := s.raw(t, "POST", "/v1/endpoints/e/query", `{}`)
			body := text(t, response.Body)
			if response.StatusCode != c.status || response.Header.Get("Content-Type") != c.contentType {
				t.Errorf("got %s, %v", response.Status, response.Header)
			}
			if c.response.Body != nil && body != string(c.response.Body) {
				t.Errorf("body has %d bytes, want %d", len(body), len(c.response.Body))
			}
			if name == "full" && len(response.Header.Values("X-Model")) != 2 {
				t.Errorf("headers are %v", response.Header)
			}
		})
	}
}

func TestAClientThatLeavesWithdrawsItsQuery(t *testing.T) {
	s := serve(t, Options{})
	b := newFake("m")
	s.deploy(t, b)
	ctx, leave := context.WithCancel(t.Context())
	var calling sync.WaitGroup
	calling.Go(func() {
		if _, err := s.client.Query(ctx, "e", QuerySpec{}); !errors.Is(err, context.Canceled) {
			t.Errorf("Query = %v", err)
		}
	})
	call := next(t, b.held)
	leave()
	if next(t, b.withdrawn) != call {
		t.Error("another call was withdrawn")
	}
	calling.Wait()
}

func TestTheBackendsTimeoutIsTheDefault(t *testing.T) {
	s := serve(t, Options{})
	b := newFake("m")
	b.config.Timeout = serving.Duration(time.Millisecond)
	s.deploy(t, b)
	_, err := s.client.Query(t.Context(), "e", QuerySpec{})
	wantCode(t, err, serving.DeadlineExceeded, "1ms")
	next(t, b.withdrawn)
	call := next(t, b.held)
	if deadline, ok := call.Context.Deadline(); !ok || deadline.After(time.Now()) {
		t.Errorf("the batcher was told %v, %v", deadline, ok)
	}
}

func TestAQueryIsFinishedBeforeTheServerStops(t *testing.T) {
	s := serve(t, Options{})
	b := newFake("m")
	s.deploy(t, b)
	var calling sync.WaitGroup
	calling.Go(func() {
		if answer, err := s.client.Query(t.Context(), "e", QuerySpec{}); err != nil || string(answer.Body) != "1" {
			t.Errorf("Query = %s, %v", answer.Body, err)
		}
	})
	call := next(t, b.held)
	stopped := make(chan error, 1)
	go func() { stopped <- s.stop() }()
	<-s.draining.Done()
	b.release(call, serving.Response{Format: serving.JSON, Body: []byte("1")}, nil)
	if err := next(t, stopped); err != nil {
		t.Error(err)
	}
	calling.Wait()
}
