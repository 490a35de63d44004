package rest

import (
	"context"
	"net/http"
	"net/http/httptrace"
	"strings"
	"testing"

	"github.com/shoalserve/shoal/internal/serving"
)

// speakHTTP2 makes the server's client one that speaks cleartext HTTP/2 only.
func (s *server) speakHTTP2() {
	transport := &http.Transport{Protocols: new(http.Protocols), DisableCompression: true}
	transport.Protocols.SetUnencryptedHTTP2(true)
	s.client.Transport = transport
	s.t.Cleanup(transport.CloseIdleConnections)
}

func TestHTTP2InCleartext(t *testing.T) {
	held := newFake("held", nil)
	s := serve(t, Options{MaxBodyBytes: 100}, held, newFake("m", func(c *serving.Call) error {
		return answer(c, text(c.Request.Method+" "+c.Request.Target+" "+string(c.Request.Body)), nil)
	}))
	s.speakHTTP2()
	got := s.ask("POST", "/m?a=1", "body", "X-Request-Id", "mine")
	if got.ProtoMajor != 2 || got.body != "POST /m?a=1 body" || got.Header.Get("X-Request-Id") != "mine" || got.Header.Get("Server-Timing") == "" {
		t.Errorf("got HTTP/%d %q, %v", got.ProtoMajor, got.body, got.Header)
	}
	s.problem(s.ask("GET", "/nowhere", ""), 404, serving.EndpointNotFound)
	s.problem(s.ask("POST", "/m", "{,}", "Content-Type", "application/json"), 400, serving.InvalidArgument)
	s.problem(s.ask("POST", "/m", strings.Repeat("x", 101)), 413, serving.TooLarge)
}

// The client that leaves is one stream; the others on its connection stay.
func TestAnHTTP2StreamThatIsResetFreesItsSeatAndKeepsItsConnection(t *testing.T) {
	b := newFake("held", nil)
	s := serve(t, Options{MaxBodyBytes: 10}, b, answering("m", text("x")))
	s.speakHTTP2()
	s.ask("GET", "/m", "")
	for range 3 {
		ctx, cancel := context.WithCancel(t.Context())
		left := make(chan error, 1)
		go func() {
			r, err := http.NewRequestWithContext(ctx, "GET", "http://"+s.addr+"/held", nil)
			if err == nil {
				_, err = send(s.client, r)
			}
			left <- err
		}()
		c := next(t, "the call", b.held)
		cancel()
		if next(t, "the withdrawal", b.withdrawn) != c || next(t, "the client", left) == nil {
			t.Error("the stream was not reset")
		}
	}
	s.problem(s.ask("POST", "/m", "more than ten bytes"), 413, serving.TooLarge)
	reused := false
	trace := &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) { reused = info.Reused }}
	r, err := http.NewRequestWithContext(httptrace.WithClientTrace(t.Context(), trace), "GET", "http://"+s.addr+"/m", nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := send(s.client, r); err != nil || got.body != "x" || !reused {
		t.Errorf("got %q, %v; connection reused: %v", got.body, err, reused)
	}
}
