package rest

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shoalserve/shoal/internal/serving"
)

func TestNoAnswerInTime(t *testing.T) {
	for _, c := range []struct {
		name    string
		backend time.Duration
		header  string
		want    string
	}{
		{"the backend's timeout", 20 * time.Millisecond, "", "within 20ms"},
		{"the client's timeout", time.Minute, "30ms", "within 30ms"},
		{"the client's is longer than the backend's", 20 * time.Millisecond, "1h", "within 20ms"},
	} {
		for _, stuck := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, stuck %v", c.name, stuck), func(t *testing.T) {
				b := newFake("m", nil)
				b.config.Timeout, b.stuck = serving.Duration(c.backend), stuck
				s := serve(t, Options{}, b)
				var header []string
				if c.header != "" {
					header = []string{"Shoal-Timeout", c.header}
				}
				got := s.ask("GET", "/m", "", append(header, "X-Request-Id", "mine")...)
				p := s.problem(got, 504, serving.DeadlineExceeded)
				if !strings.Contains(p.Detail, c.want) || p.Instance != "mine" {
					t.Errorf("got %+v", p)
				}
				if next(t, "the withdrawal", b.withdrawn) != next(t, "the call", b.held) {
					t.Error("another call was withdrawn")
				}
			})
		}
	}
}

func TestTimeoutsThatAreNone(t *testing.T) {
	s := serve(t, Options{}, answering("m", text("x")))
	for _, value := range []string{"", "5", "-1s", "0s", "soon", "1e400s"} {
		p := s.problem(s.ask("GET", "/m", "", "Shoal-Timeout", value), 400, serving.InvalidArgument)
		if !strings.Contains(p.Detail, "Shoal-Timeout") || !strings.Contains(p.Detail, "500ms") {
			t.Errorf("%q: %s", value, p.Detail)
		}
	}
	if got := s.ask("GET", "/m", "", "Shoal-Timeout", "1.5s"); got.body != "x" {
		t.Errorf("got %d %s", got.StatusCode, got.body)
	}
}

func TestAClientThatHangsUpFreesItsSeat(t *testing.T) {
	for name, request := range map[string]string{
		"without a body": "GET /m HTTP/1.1\r\nHost: h\r\n\r\n",
		"with a body":    "POST /m HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx",
		"with chunks":    "POST /m HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
	} {
		for _, stuck := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, stuck %v", name, stuck), func(t *testing.T) {
				b := newFake("m", nil)
				b.stuck = stuck
				s := serve(t, Options{}, b)
				conn, _ := s.dial()
				s.write(conn, request)
				c := next(t, "the call", b.held)
				if err := conn.Close(); err != nil {
					t.Fatal(err)
				}
				if next(t, "the withdrawal", b.withdrawn) != c {
					t.Error("another call was withdrawn")
				}
				if c.Context.Err() == nil {
					t.Error("the call's context goes on")
				}
			})
		}
	}
}

func TestAClientThatHangsUpWithinItsBody(t *testing.T) {
	s := serve(t, Options{}, newFake("m", func(*serving.Call) error { panic("half a body was submitted") }))
	conn, from := s.dial()
	s.write(conn, "POST /m HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nhalf")
	if err := conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got := s.read(from); got.StatusCode != clientLeft || !got.Close {
		t.Errorf("got %d", got.StatusCode)
	}
}

// A query whose context ended may be failed by its backend before the front
// looks: that is no failure of the model.
func TestAHangUpThatTheBackendSawFirst(t *testing.T) {
	s := serve(t, Options{}, newFake("m", nil))
	canceled := make(chan struct{})
	s.deploy(newFake("n", func(c *serving.Call) error {
		go func() {
			<-c.Context.Done()
			_ = answer(c, serving.Response{}, context.Canceled)
			close(canceled)
		}()
		return nil
	}))
	conn, _ := s.dial()
	s.write(conn, "GET /n HTTP/1.1\r\nHost: h\r\n\r\n")
	_ = conn.Close()
	next(t, "the cancellation", canceled)
	_ = s.stop()
	if strings.Contains(s.log.String(), "query failed") {
		t.Errorf("logged %s", s.log)
	}
}

// Half of the callers leave just when their answer comes. Nobody may get an
// answer that is not his own; -race watches over the exchanges.
func TestAnAbandonedExchangeIsNeverReused(t *testing.T) {
	const clients, queries = 8, 200
	b := newFake("m", nil)
	b.stuck = true
	s := serve(t, Options{}, b)
	answering := make(chan struct{})
	go func() { // like a replica: later, and whether or not somebody still waits
		defer close(answering)
		for c := range b.held {
			go func() {
				time.Sleep(time.Duration(len(c.Request.ID)%3) * 500 * time.Microsecond) // around the callers' patience
				b.respond(c, text(c.Request.ID))
			}()
		}
	}()
	go func() {
		for range b.withdrawn { //nolint:revive // only to keep it empty
		}
	}()
	var asking sync.WaitGroup
	for client := range clients {
		asking.Go(func() {
			for n := range queries {
				id := fmt.Sprintf("%d-%d-%s", client, n, strings.Repeat("x", n%3))
				got, err := s.try("GET", "/m", "", "X-Request-Id", id, "Shoal-Timeout", "1ms")
				switch {
				case err != nil:
					t.Error(err)
				case got.Header.Get("X-Request-Id") != id:
					t.Errorf("%s got headers %v", id, got.Header)
				case got.StatusCode == 200 && got.body != id:
					t.Errorf("%s got the answer %q", id, got.body)
				case got.StatusCode != 200 && got.StatusCode != 504:
					t.Errorf("%s got %d", id, got.StatusCode)
				}
			}
		})
	}
	asking.Wait()
	if err := s.stop(); err != nil { // nobody submits any more
		t.Error(err)
	}
	close(b.held)
	close(b.withdrawn)
	<-answering
}

// The deadline for the request must not end the wait for its answer.
func TestAModelMayTakeLongerThanARequestMayTakeToArrive(t *testing.T) {
	for name, request := range map[string]string{
		"without a body": "GET /m HTTP/1.1\r\nHost: h\r\n\r\n",
		"with a body":    "POST /m HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx",
	} {
		t.Run(name, func(t *testing.T) {
			b := newFake("m", nil)
			s := serve(t, Options{ReadTimeout: 50 * time.Millisecond}, b)
			conn, from := s.dial()
			s.write(conn, request)
			c := next(t, "the call", b.held)
			select {
			case <-b.withdrawn:
				t.Error("the call was withdrawn although its client waits")
			case <-time.After(200 * time.Millisecond): // well beyond ReadTimeout
			}
			b.respond(c, text("late"))
			if got := s.read(from); got.body != "late" {
				t.Errorf("got %d %q", got.StatusCode, got.body)
			}
			s.write(conn, "GET /livez HTTP/1.1\r\nHost: h\r\n\r\n")
			if got := s.read(from); got.body != "ok\n" {
				t.Errorf("the next answer: %d %q", got.StatusCode, got.body)
			}
		})
	}
}

func TestSlowClients(t *testing.T) {
	quick := 30 * time.Millisecond
	s := serve(t, Options{ReadHeaderTimeout: quick, ReadTimeout: quick}, answering("m", text("x")))
	for name, half := range map[string]string{"nothing": "", "half a header": "GET /m HTTP/1.1\r\nHo", "half a preface": "PRI * HT"} {
		t.Run(name, func(t *testing.T) {
			conn, from := s.dial()
			_, _ = io.WriteString(conn, half) // it may be too late already
			// What it is told, and whether that is lost with what was not read, is net/http's matter.
			if _, err := io.ReadAll(from); isTimeout(err) {
				t.Errorf("the connection goes on: %v", err)
			}
		})
	}
	s = serve(t, Options{ReadHeaderTimeout: patience, ReadTimeout: quick}, answering("m", text("x")))
	for name, half := range map[string]string{
		"half a body": "POST /m HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nhalf",
		"half chunks": "POST /m HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			conn, from := s.dial()
			s.write(conn, half)
			got := s.read(from)
			if s.problem(got, 408, serving.DeadlineExceeded); !got.Close {
				t.Error("the connection goes on")
			}
		})
	}
}

func TestHeadersThatAreTooLarge(t *testing.T) {
	s := serve(t, Options{MaxHeaderBytes: 1000}, answering("m", text("x")))
	if got := s.ask("GET", "/m", "", "X-Large", strings.Repeat("x", 6000)); got.StatusCode != 431 {
		t.Errorf("got %d", got.StatusCode)
	}
}

// wait, in a bubble where time is exact.
func TestWaitEndsWithWhatComesFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, c := range []struct {
			name          string
			answer, leave time.Duration
			want          string
		}{
			{"answer", time.Second, 0, ""},
			{"deadline", 3 * time.Second, 0, "DeadlineExceeded"},
			{"hang-up", 3 * time.Second, time.Second, "Canceled"},
		} {
			b := newFake("m", nil)
			x := exchanges.New().(*exchange)
			ctx, cancel := context.WithCancel(t.Context())
			x.call.Backend = b
			if err := b.Submit(&x.call); err != nil {
				t.Fatal(err)
			}
			time.AfterFunc(c.answer, func() {
				if b.take(&x.call) {
					_ = answer(&x.call, text("x"), nil)
				}
			})
			if c.leave > 0 {
				time.AfterFunc(c.leave, cancel)
			}
			start := time.Now()
			err := x.wait(ctx, 2*time.Second)
			got := ""
			if err != nil {
				got = string(serving.Describe(err).Code)
			}
			if took := time.Since(start); got != c.want || took > 2*time.Second {
				t.Errorf("%s: got %q after %v", c.name, got, took)
			}
			cancel()
			time.Sleep(5 * time.Second) // past all timers
		}
	})
}
