package admin

import (
	"strings"
	"testing"
	"time"

	"github.com/shoalserve/shoal/internal/serving"
	"github.com/shoalserve/shoal/internal/wire"
)

func TestACanceledQueryIsWithdrawnAndAnsweredOnce(t *testing.T) {
	for name, stuck := range map[string]bool{"while it waits": false, "while it runs": true} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, Options{})
			b := newFake("m")
			b.stuck = stuck
			s.deploy(t, b)
			l := s.link(t)
			l.query(t, 1, "")
			call := next(t, b.held)
			l.send(t, cancelFrame(1), cancelFrame(1), cancelFrame(99))
			l.wantRefusal(t, 1, serving.Canceled)
			if !stuck && next(t, b.withdrawn) != call {
				t.Error("another call was withdrawn")
			}
			b.release(call, serving.Response{Format: serving.JSON}, nil) // too late: nobody waits
			l.query(t, 2, "")
			b.release(next(t, b.held), serving.Response{Format: serving.JSON}, nil)
			if ref, _, _ := l.answer(t); ref != 2 {
				t.Errorf("query %d was answered again", ref)
			}
		})
	}
}

func TestAQueryWhoseTimeIsOverIsAnsweredOnce(t *testing.T) {
	for name, c := range map[string]struct {
		stuck    bool
		own, def time.Duration
	}{
		"its own time":               {false, time.Millisecond, time.Hour},
		"the backend's time":         {false, 0, time.Millisecond},
		"its own time, running":      {true, time.Millisecond, time.Hour},
		"the backend's, and it runs": {true, 0, time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, Options{})
			b := newFake("m")
			b.stuck, b.config.Timeout = c.stuck, serving.Duration(c.def)
			s.deploy(t, b)
			l := s.link(t)
			l.send(t, ask(nil, 1, c.own, "e", "", "", "", ""))
			call := next(t, b.held)
			l.wantRefusal(t, 1, serving.DeadlineExceeded)
			if !c.stuck {
				next(t, b.withdrawn)
			}
			b.release(call, serving.Response{Format: serving.JSON}, nil)
			l.send(t, ask(nil, 2, time.Hour, "e", "", "", "", ""))
			b.release(next(t, b.held), serving.Response{Format: serving.JSON}, nil)
			if ref, _, _ := l.answer(t); ref != 2 {
				t.Errorf("query %d was answered again", ref)
			}
		})
	}
}

func TestTimeoutsAndAnswersRace(t *testing.T) {
	s := serve(t, Options{})
	b := later(newFake("m"), func(c *serving.Call) {
		deadline, _ := c.Context.Deadline()
		for time.Now().Before(deadline) { // answer at the very moment
		}
		echo(c)
	})
	s.deploy(t, b)
	l := s.link(t)
	const n = 100
	for ref := range uint64(n) {
		l.send(t, ask(nil, ref, time.Millisecond, "e", "", "", "", ""))
	}
	seen := make(map[uint64]bool)
	for range n {
		ref, _, _ := l.answer(t)
		if seen[ref] {
			t.Fatalf("query %d was answered twice", ref)
		}
		seen[ref] = true
	}
	b.running.Wait()
}

func TestALostConnectionWithdrawsItsQueries(t *testing.T) {
	s := serve(t, Options{})
	b := newFake("m")
	s.deploy(t, b)
	l, other := s.link(t), s.link(t)
	other.query(t, 1, "")
	stays := next(t, b.held)
	lost := make(map[*serving.Call]bool)
	for ref := range uint64(20) {
		l.query(t, ref, "")
		lost[next(t, b.held)] = true
	}
	_ = l.Close()
	for range 20 {
		if call := next(t, b.withdrawn); !lost[call] {
			t.Error("another connection's query was withdrawn")
		}
	}
	b.release(stays, serving.Response{Format: serving.JSON}, nil)
	other.answer(t)
}

func TestGoodbye(t *testing.T) {
	s := serve(t, Options{})
	b := newFake("m")
	s.deploy(t, b)
	l, idle := s.link(t), s.link(t)
	l.query(t, 1, "")
	call := next(t, b.held)
	idle.query(t, 9, "")
	b.release(next(t, b.held), serving.Response{Format: serving.JSON}, nil)
	idle.answer(t)
	stopped := make(chan error, 1)
	go func() { stopped <- s.stop() }()

	for _, l := range []*linkClient{l, idle} {
		kind, body, err := wire.Read(l.in)
		if err != nil || kind != wire.Goodbye || string(body) != `{"reason":"the server is shutting down"}` {
			t.Fatalf("got kind %d, %s, %v", kind, body, err)
		}
	}
	idle.wantEnd(t)
	_ = idle.Close()
	l.query(t, 2, "")
	l.wantRefusal(t, 2, serving.Draining)
	b.release(call, serving.Response{Format: serving.JSON, Body: []byte("1")}, nil)
	if ref, code, payload := l.answer(t); ref != 1 || code != 1 || payload != "1" {
		t.Errorf("answer is %d, %d, %q", ref, code, payload)
	}
	l.wantEnd(t)
	_ = l.Close()
	if err := next(t, stopped); err != nil {
		t.Error(err)
	}
	if s.register(newLink(s.Front, s.token.Load().who)) {
		t.Error("a link was opened after the end")
	}
}

func TestALinkThatDoesNotFinishIsCut(t *testing.T) {
	s := serve(t, Options{ShutdownTimeout: time.Millisecond})
	b := newFake("m")
	s.deploy(t, b)
	l := s.link(t)
	l.query(t, 1, "")
	next(t, b.held)
	if err := s.stop(); err == nil || !strings.Contains(err.Error(), "1 links were cut") {
		t.Errorf("Serve = %v", err)
	}
	next(t, b.withdrawn)
}

func TestABackendThatPanicsEndsItsLinkAlone(t *testing.T) {
	s := serve(t, Options{})
	b := newFake("m")
	b.respond = func(c *serving.Call) {
		if string(c.Args.Payload) == "panic" {
			panic("boom")
		}
		echo(c)
	}
	s.deploy(t, b)
	l, other := s.link(t), s.link(t)
	l.query(t, 1, "panic")
	l.wantEnd(t)
	other.query(t, 1, "fine")
	if _, _, payload := other.answer(t); payload != "fine" {
		t.Errorf("payload is %q", payload)
	}
}
