package rest

import (
	"errors"
	"net"
	"testing"

	"github.com/shoalserve/shoal/internal/serving"
)

// An answer that comes after its loop failed would be written to a descriptor that
// may be another connection's by then.
func TestALoopThatFailsGivesUpItsFlights(t *testing.T) {
	b := newFake("m", nil)
	s := &server{t: t, registry: serving.NewRegistry(), log: &log{}}
	s.deploy(b)
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.Front, s.addr = New(s.registry, Options{}), listener.Addr().String()
	plain, _, err := s.loops(listener)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- plain.serve() }()
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
