package rest

import (
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/shoalserve/shoal/internal/serving"
)

// A client that ends its half with its request is seen to have left in the same
// event as the request; its answer may be out by then. No other event comes.
func TestAClientThatEndsItsHalfWithItsRequestIsNotForgotten(t *testing.T) {
	s := serve(t, Options{}, answering("m", text("x")))
	for _, path := range []string{"/m", "/nowhere"} {
		for _, n := range []int{1, 2} {
			t.Run(fmt.Sprintf("%s, %d", path, n), func(t *testing.T) {
				for range 20 {
					conn, from := s.dial()
					s.write(conn, strings.Repeat("GET "+path+" HTTP/1.1\r\nHost: h\r\n\r\n", n))
					if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
						t.Fatal(err)
					}
					if _, err := io.ReadAll(from); err != nil {
						t.Fatalf("the connection goes on: %v", err)
					}
				}
			})
		}
	}
}

// What a client sends while it waits makes an event of its own, which comes before
// the loop gives up on the answer.
func TestARequestThatCameBeforeTheAnswerTimedOut(t *testing.T) {
	b := newFake("m", nil)
	s := serve(t, Options{}, b)
	conn, from := s.dial()
	s.write(conn, "GET /m?first HTTP/1.1\r\nHost: h\r\nShoal-Timeout: 100ms\r\n\r\n")
	next(t, "the first call", b.held)
	s.write(conn, "GET /m?second HTTP/1.1\r\nHost: h\r\n\r\n")
	if got := s.read(from); got.StatusCode != 504 {
		t.Errorf("the first answer: %d %q", got.StatusCode, got.body)
	}
	second := next(t, "the second call", b.held)
	if err := b.respond(second, text("second")); err != nil {
		t.Fatal(err)
	}
	if got := s.read(from); got.body != "second" {
		t.Errorf("the second answer: %d %q", got.StatusCode, got.body)
	}
}

// The time for an answer begins when the body is there.
func TestABodyThatTakesLongerThanTheAnswerMay(t *testing.T) {
	const timeout = time.Second
	b := newFake("m", nil)
	b.config.Timeout = serving.Duration(timeout)
	s := serve(t, Options{}, b)
	conn, from := s.dial()
	s.write(conn, "POST /m HTTP/1.1\r\nHost: h\r\nContent-Length: 8\r\n\r\nhalf")
	select {
	case <-b.held:
		t.Fatal("half a body was submitted")
	case <-time.After(timeout + 50*time.Millisecond): // so slow is the client
	}
	s.write(conn, "half")
	if err := b.respond(next(t, "the call", b.held), text("x")); err != nil {
		t.Fatal(err)
	}
	if got := s.read(from); got.body != "x" {
		t.Errorf("got %d %q", got.StatusCode, got.body)
	}
}

// net/http takes line breaks after the body of a POST; HTTP/2 must not hide
// behind them.
func TestHTTP2CannotBeginBehindLineBreaks(t *testing.T) {
	s := serve(t, Options{}, answering("m", text("x")))
	const frames = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"
	for _, breaks := range []string{"\n", "\r\n", "\r\n\r\n", "\n\n\n", "\r\n\r\n\r\n"} {
		for cut := range len(breaks) + 4 {
			conn, from := s.dial()
			s.write(conn, "POST /m HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\n1")
			if got := s.read(from); got.body != "x" {
				t.Fatalf("got %q", got.body)
			}
			sent := breaks + frames
			s.write(conn, sent[:cut])
			time.Sleep(2 * time.Millisecond)        // so that it is likely read in two
			_, _ = io.WriteString(conn, sent[cut:]) // unless the first part was enough
			first, err := from.Peek(9)
			if err != nil || string(first) != "HTTP/1.1 " {
				t.Errorf("%q, cut at %d: it says %q, %v", breaks, cut, first, err)
				continue
			}
			if got := s.read(from); got.StatusCode < 400 || !got.Close {
				t.Errorf("%q, cut at %d: got %d", breaks, cut, got.StatusCode)
			}
		}
	}
}

// Old clients send a line break that belongs to no request.
func TestLineBreaksBetweenRequestsThatComeLater(t *testing.T) {
	s := serve(t, Options{}, answering("m", text("x")))
	for _, breaks := range []string{"\n", "\r\n", "\n\n\n\n"} {
		conn, from := s.dial()
		for range 3 {
			s.write(conn, "POST /m HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\n1"+breaks)
			if got := s.read(from); got.body != "x" {
				t.Fatalf("%q: got %d %q", breaks, got.StatusCode, got.body)
			}
		}
	}
}

// A model's decoder that hangs holds a stop up for as long as a stop may take, also
// when its client has left.
func TestADecoderThatHangsDoesNotHoldUpAStopForever(t *testing.T) {
	began, release := make(chan struct{}), make(chan struct{})
	s := serve(t, Options{ShutdownTimeout: 50 * time.Millisecond}, newFake("m", func(*serving.Call) error {
		close(began)
		<-release
		return context.Canceled
	}))
	defer close(release)
	conn, _ := s.dial()
	s.write(conn, fmt.Sprintf("POST /m HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%s", 8<<10, strings.Repeat("x", 8<<10)))
	next(t, "the call", began)
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	stopped := make(chan error, 1)
	go func() { stopped <- s.stop() }()
	if next(t, "the stop", stopped) == nil {
		t.Error("the stop does not say that it was not enough")
	}
}
