package admin

import (
	"bytes"
	"encoding/binary"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/shoalserve/shoal/internal/serving"
	"github.com/shoalserve/shoal/internal/wire"
)

// syncBuffer is a log that is read while it is written.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func TestAMalformedFrameClosesTheLinkWithAReason(t *testing.T) {
	le := binary.LittleEndian
	frame := func(kind wire.Kind, body string) []byte {
		return append(append(le.AppendUint32(nil, uint32(1+len(body))), byte(kind)), body...)
	}
	twice := ask(ask(nil, 1, 0, "e", "", "", "", ""), 1, 0, "e", "", "", "", "")
	for name, c := range map[string]struct {
		sent   []byte
		reason string
	}{
		"empty frame":            {make([]byte, 5), "a frame of 0 bytes"},
		"too long":               {le.AppendUint32(nil, wire.MaxFrame+1), "header"},
		"too long, with a kind":  {append(le.AppendUint32(nil, wire.MaxFrame+1), 16), "must have 1 to"},
		"unknown kind":           {frame(77, ""), "kind 77"},
		"a server's kind":        {frame(wire.Answer, "xxxxxxxxx"), "kind 17"},
		"short QUERY":            {frame(wire.Query, "short"), "QUERY of 5 bytes"},
		"QUERY with bad lengths": {frame(wire.Query, "\x01\x00\x00\x00"+strings.Repeat("\xff", queryFixed)), "announces"},
		"QUERY without a query":  {frame(wire.Query, strings.Repeat("\x00", queryFixed)), "0 queries"},
		"QUERY with too many":    {frame(wire.Query, "\x01\x04\x00\x00"+strings.Repeat("\x00", queryFixed+2000*queryEach)), "1025 queries"},
		"QUERY that is too long": {frame(wire.Query, string(ask(nil, 1, 0, "e", "", "", "", "")[wire.HeaderSize:])+"x"), "lengths say 0"},
		"name that is no UTF-8":  {ask(nil, 1, 0, "\xff", "", "", "", ""), "UTF-8"},
		"short CANCEL":           {frame(wire.Cancel, "short"), "CANCEL of 5 bytes"},
		"ref id used twice":      {twice, "ref id 1"},
		"end within a frame":     {frame(wire.Query, "short")[:7], "within a frame"},
		"end within a large one": {append(append(le.AppendUint32(nil, wire.MaxFrame), 16), make([]byte, 3<<20)...), "within a frame"},
	} {
		t.Run(name, func(t *testing.T) {
			var log syncBuffer
			s := serve(t, Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
			s.deploy(t, newFake("m"))
			l := s.link(t)
			l.send(t, c.sent)
			_ = l.Conn.(*net.UnixConn).CloseWrite()
			l.wantEnd(t)
			if err := s.stop(); err != nil { // after which all is logged
				t.Error(err)
			}
			if !strings.Contains(log.String(), "malformed frame") || !strings.Contains(log.String(), c.reason) {
				t.Errorf("log is %s", &log)
			}
		})
	}
}

func TestAClientThatDoesNotReadIsNotReadEither(t *testing.T) {
	s := serve(t, Options{})
	const n, size = 200, 1 << 20 // far more than an outbox may hold
	blob := make([]byte, size)
	full := make(chan struct{})
	once := sync.OnceFunc(func() { close(full) })
	b := newFake("m")
	b.respond = func(c *serving.Call) {
		l := c.Context.(*query).together.link
		l.mu.Lock()
		pending := l.out.size
		l.mu.Unlock()
		if pending > maxOutbox {
			t.Errorf("a query was read while %d bytes waited", pending)
		}
		if pending+size > maxOutbox {
			once()
		}
		c.Response = serving.Response{Format: serving.Bytes, Body: blob}
	}
	s.deploy(t, b)
	l := s.link(t)
	var frames []byte
	for ref := range uint64(n) {
		frames = ask(frames, ref, 0, "e", "", "", "", "")
	}
	l.send(t, frames)
	next(t, full)
	for ref := range uint64(n) {
		if got, _, payload := l.answer(t); got != ref || len(payload) != size {
			t.Fatalf("answer to %d has %d bytes", got, len(payload))
		}
	}
}

func TestAClientThatLeavesWithoutReading(t *testing.T) {
	s := serve(t, Options{})
	blob := make([]byte, maxOutbox)
	b := newFake("m")
	s.deploy(t, b)
	l := s.link(t)
	for ref := range uint64(3) {
		l.query(t, ref, "")
	}
	calls := []*serving.Call{next(t, b.held), next(t, b.held), next(t, b.held)} // once the outbox is full none is read
	for _, call := range calls {
		b.release(call, serving.Response{Format: serving.Bytes, Body: blob}, nil)
	}
	l.query(t, 4, "") // which the server does not take
	_ = l.Close()
	if err := s.stop(); err != nil {
		t.Error(err)
	}
}
