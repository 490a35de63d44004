package rest

import (
	"errors"
	"log/slog"
	"net"
	"strings"
	"testing"

	"github.com/shoalserve/shoal/internal/serving"
)

// serveLoops serves a backend by loops that the test can reach.
func serveLoops(t *testing.T, b *fake) (s *server, plain plainServer, served <-chan error) {
	t.Helper()
	s = &server{t: t, registry: serving.NewRegistry(), log: &log{}}
	s.deploy(b)
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.Front, s.addr = New(s.registry, Options{Logger: slog.New(slog.NewJSONHandler(s.log, nil))}), listener.Addr().String()
	if plain, _, err = s.loops(listener); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- plain.serve() }()
	return s, plain, ended
}

// An answer that comes after its loop failed would be written to a descriptor that
// may be another connection's by then.
func TestALoopThatFailsGivesUpItsFlights(t *testing.T) {
	b := newFake("m", nil)
	s, plain, served := serveLoops(t, b)
	conn, _ := s.dial()
	s.write(conn, "GET /m HTTP/1.1\r\nHost: h\r\n\r\n")
	call := next(t, "a call", b.held)
	for _, l := range plain.(*loops).all {
		l.order(func() { l.failed = errors.New("failed by the test") })
	}
	next(t, "the end of serve", served)
	if next(t, "a withdrawal", b.withdrawn) != call {
		t.Error("another call was withdrawn")
	}
	if err := errors.Join(plain.close(), plain.wait(t.Context()), s.registry.Close(t.Context())); err != nil {
		t.Error(err)
	}
}

// A bug of ours costs the connection that met it, not the process.
func TestALoopThatPanicsClosesTheConnection(t *testing.T) {
	b := newFake("m", nil)
	s, plain, served := serveLoops(t, b)
	asking, from := s.dial()
	s.write(asking, "GET /m HTTP/1.1\r\nHost: h\r\n\r\n")
	call := next(t, "a call", b.held)
	hurt, hurtFrom := s.dial()
	s.write(hurt, "POST /m HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\nx")
	until(t, "its body is arriving", func() bool { return s.arriving.Held() > 0 })
	held := s.arriving.Held()
	all := plain.(*loops).all
	broken := make(chan struct{}, len(all))
	for _, l := range all {
		l.order(func() {
			defer func() { broken <- struct{}{} }()
			for _, c := range l.conns {
				if c != nil && c.phase == filling {
					c.flight = nil
				}
			}
		})
	}
	for range all {
		next(t, "it is broken", broken)
	}
	s.write(hurt, "x")
	if n, err := hurtFrom.Peek(1); err == nil {
		t.Errorf("got %q", n)
	}
	if err := b.respond(call, text("yes")); err != nil {
		t.Fatal(err)
	}
	if got := s.read(from); got.body != "yes" {
		t.Errorf("got %q", got.body)
	}
	if !strings.Contains(s.log.String(), "a connection made the server panic") {
		t.Errorf("logged %s", s.log)
	}
	s.arriving.Give(int(held)) // with the flight, the test took away what it held
	plain.drain()
	next(t, "the end of serve", served)
	if err := errors.Join(plain.wait(t.Context()), s.registry.Close(t.Context())); err != nil {
		t.Error(err)
	}
}
