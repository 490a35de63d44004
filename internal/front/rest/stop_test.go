package rest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/shoalserve/shoal/internal/serving"
)

func TestAStopFinishesWhatWasAcceptedAndRefusesTheRest(t *testing.T) {
	for _, protocol := range []string{"HTTP/1", "HTTP/2"} {
		t.Run(protocol, func(t *testing.T) {
			b := newFake("m", nil)
			s := serve(t, Options{}, b)
			if protocol == "HTTP/2" {
				s.speakHTTP2()
			}
			const accepted = 20
			answers := make(chan error, accepted)
			for n := range accepted {
				go func() {
					got, err := s.try("POST", "/m", fmt.Sprint(n))
					if err == nil && got.body != fmt.Sprint(n) {
						err = fmt.Errorf("%d got %d %q", n, got.StatusCode, got.body)
					}
					answers <- err
				}()
			}
			var calls []*serving.Call
			for range accepted {
				calls = append(calls, next(t, "a call", b.held))
			}
			stopped := make(chan error, 1)
			go func() { stopped <- s.stop() }()
			for !s.draining.Load() || s.listens() {
				time.Sleep(time.Millisecond) // until the stop has begun
			}
			if protocol == "HTTP/1" {
				if _, err := s.try("GET", "/m", ""); err == nil {
					t.Error("a new request was taken")
				}
			}
			select {
			case err := <-stopped:
				t.Fatalf("stopped with %d requests to answer: %v", accepted, err)
			default:
			}
			for _, c := range calls {
				b.respond(c, serving.Response{Format: serving.Text, Body: c.Request.Body})
			}
			for range accepted {
				if err := next(t, "an answer", answers); err != nil {
					t.Error(err)
				}
			}
			if err := next(t, "the stop", stopped); err != nil {
				t.Error(err)
			}
		})
	}
}

func (s *server) listens() bool {
	conn, err := net.DialTimeout("tcp", s.addr, patience)
	if err == nil {
		_ = conn.Close()
	}
	return err == nil
}

// A request that reaches the handler once the stop has begun, as one of a
// connection with other requests under way.
func TestAServerThatDrainsRefuses(t *testing.T) {
	s := serve(t, Options{}, answering("m", text("x")))
	s.draining.Store(true)
	for _, path := range []string{"/m", "/readyz", "/nowhere"} {
		got := s.ask("GET", path, "")
		s.problem(got, 503, serving.Draining)
		if !got.Close {
			t.Errorf("%s: the connection stays", path)
		}
	}
	if got := s.ask("GET", "/livez", ""); got.StatusCode != 200 {
		t.Errorf("livez: %d", got.StatusCode)
	}
}

// Whoever got no answer was refused before his query reached the model.
func TestAStopUnderLoadLosesNoAcceptedQuery(t *testing.T) {
	var taken, answered atomic.Int64
	b := newFake("m", func(c *serving.Call) error {
		taken.Add(1)
		go func() { _ = answer(c, text(c.Request.ID), nil) }()
		return nil
	})
	s := serve(t, Options{}, b)
	enough := make(chan struct{})
	var once sync.Once
	var asking sync.WaitGroup
	for client := range 8 {
		asking.Go(func() {
			for n := 0; ; n++ {
				id := fmt.Sprint(client, "-", n)
				got, err := s.try("GET", "/m", "", "X-Request-Id", id)
				if err != nil || got.StatusCode == 503 {
					return
				}
				if got.body != id {
					t.Errorf("%s got %d %q", id, got.StatusCode, got.body)
				}
				if answered.Add(1) == 200 {
					once.Do(func() { close(enough) })
				}
			}
		})
	}
	next(t, "200 answers", enough)
	if err := s.stop(); err != nil {
		t.Error(err)
	}
	asking.Wait()
	if taken.Load() != answered.Load() {
		t.Errorf("the model took %d queries, %d were answered", taken.Load(), answered.Load())
	}
}

func TestAStopThatTakesTooLongSaysSo(t *testing.T) {
	b := newFake("m", nil)
	s := serve(t, Options{ShutdownTimeout: 20 * time.Millisecond}, b)
	conn, from := s.dial()
	s.write(conn, "GET /m HTTP/1.1\r\nHost: h\r\n\r\n")
	c := next(t, "the call", b.held)
	err := s.stop()
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "within 20ms") {
		t.Errorf("got %v", err)
	}
	if next(t, "the withdrawal", b.withdrawn) != c {
		t.Error("another call was withdrawn")
	}
	if _, err := from.ReadByte(); err == nil {
		t.Error("the connection goes on")
	}
}

func TestAListenerThatFailsEndsServe(t *testing.T) {
	front := New(serving.NewRegistry(), Options{})
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	served := make(chan error, 1)
	go func() { served <- front.Serve(t.Context(), listener) }()
	if _, err := io.WriteString(conn, "GET /livez HTTP/1.1\r\nHost: h\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 1)
	if _, err := conn.Read(buf); err != nil {
		t.Fatal(err)
	}
	_ = listener.Close()
	if err := next(t, "Serve", served); !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v", err)
	}
	if _, err := io.ReadAll(conn); err != nil {
		t.Errorf("the connection was left open: %v", err)
	}
}

// Such a connection is told to end, too, and does not hold up the stop.
func TestAStopDuringTheHandshakeOfHTTP2(t *testing.T) {
	b := newFake("m", nil)
	s := serve(t, Options{}, b)
	asking, _ := s.dial()
	s.write(asking, "GET /m HTTP/1.1\r\nHost: h\r\n\r\n")
	c := next(t, "the call", b.held)
	late, _ := s.dial()
	s.write(late, "PRI * HTTP/2.0\r\n")
	until(t, "both are accepted", func() bool { return s.connections.Open() == 2 })
	stopped := make(chan error, 1)
	go func() { stopped <- s.stop() }()
	for s.listens() {
		time.Sleep(time.Millisecond) // until the stop has begun
	}
	_, _ = io.WriteString(late, "\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00") // and empty settings, unless it has ended
	b.respond(c, text("x"))
	if err := next(t, "the stop", stopped); err != nil {
		t.Error(err)
	}
}
