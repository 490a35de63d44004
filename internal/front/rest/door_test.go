package rest

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/shoalserve/shoal/internal/serving"
)

// until waits for something that comes about by itself.
func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

// Bodies that are arriving have only so much memory together, however they are sent.
func TestBodiesThatAreArrivingAreBounded(t *testing.T) {
	for name, head := range map[string]string{
		"of a stated length": "POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\n",
		"in chunks":          "POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nF4240\r\n", // as many
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, Options{MaxInflightBytes: 3_200_000}, echoing())
			const part = 999_999 // how much room a part gets depends on how it is read, but not of a whole but for one byte
			slow := make([]net.Conn, 3)
			for i := range slow {
				slow[i], _ = s.dial()
				s.write(slow[i], head+strings.Repeat("x", part))
			}
			until(t, "all of them are counted", func() bool { return s.arriving.Held() >= 3_000_000 }) // and grow no more
			late, from := s.dial()
			go func() { _, _ = io.WriteString(late, head+strings.Repeat("x", 400_000)) }() // it may not be read to its end
			got := s.read(from)
			s.problem(got, 503, serving.QueueFull)
			if got.Header.Get("Retry-After") == "" || !got.Close || !strings.Contains(got.body, "max_inflight_bytes") {
				t.Errorf("got %v %s", got.Header, got.body)
			}
			if got := s.ask("GET", "/echo", ""); got.StatusCode != 200 {
				t.Errorf("one without a body: %d %s", got.StatusCode, got.body)
			}
			s.write(slow[0], "x"+map[bool]string{true: "\r\n0\r\n\r\n"}[name == "in chunks"])
			_ = slow[1].Close()
			_ = slow[2].Close()
			until(t, "nothing is counted any more", func() bool { return s.arriving.Held() == 0 })
			if got := s.ask("POST", "/echo", strings.Repeat("x", 1_000_000)); got.StatusCode != 200 {
				t.Errorf("afterwards: %d %s", got.StatusCode, got.body)
			}
			until(t, "nor is that one", func() bool { return s.arriving.Held() == 0 })
			metrics := s.ask("GET", "/metrics", "").body
			for _, want := range []string{`shoal_requests_refused_total{front="http",reason="inflight_bytes"} 1`, "shoal_http_inflight_bytes 0"} {
				if !strings.Contains(metrics, want+"\n") {
					t.Errorf("the metrics lack %s", want)
				}
			}
		})
	}
}

// What counts as arriving ends with the request, whichever way it ends.
func TestNoBodyStaysCounted(t *testing.T) {
	a := failing("fails", serving.Errorf(serving.Internal, "no"))
	s := serve(t, Options{ReadTimeout: 200 * time.Millisecond, MaxBodyBytes: 2 << 20}, echoing(), a)
	body := strings.Repeat("x", 1<<20)
	for _, path := range []string{"/echo", "/fails", "/nowhere"} {
		for _, ask := range []string{"POST %s HTTP/1.1\r\nHost: h\r\nContent-Length: 1048576\r\n\r\n", "PATCH %s HTTP/1.1\r\nHost: h\r\nContent-Length: 1048576\r\n\r\n",
			"POST %s HTTP/1.1\r\nHost: h\r\nShoal-Timeout: soon\r\nContent-Length: 1048576\r\n\r\n", "POST %s HTTP/1.1\r\nHost: h\r\nContent-Length: 9999999\r\n\r\n"} {
			for _, sent := range []string{body, body[:len(body)/2]} {
				conn, from := s.dial()
				go func() { _, _ = io.WriteString(conn, fmt.Sprintf(ask, path)+sent) }()
				s.read(from)
				_ = conn.Close()
			}
		}
	}
	until(t, "nothing is counted any more", func() bool { return s.arriving.Held() == 0 })
}

func TestConnectionsThatAreTooMany(t *testing.T) {
	b := newFake("m", nil)
	s := serve(t, Options{MaxConnections: 3}, b)
	conns := make([]net.Conn, 3)
	for i := range conns {
		conns[i], _ = s.dial()
		// The last one is net/http's by now.
		s.write(conns[i], "GET /m HTTP/1.1\r\nHost: h\r\n"+map[bool]string{true: "Expect: 100-continue\r\n"}[i == 2]+"\r\n")
		next(t, "the query", b.held)
	}
	_, from := s.dial()
	got := s.read(from)
	s.problem(got, 503, serving.QueueFull)
	if got.Header.Get("Retry-After") == "" || !got.Close || !strings.Contains(got.body, "max_connections") {
		t.Errorf("got %v %s", got.Header, got.body)
	}
	if n := s.connections.Open(); n != 3 {
		t.Errorf("%d connections are open", n)
	}
	for i, conn := range conns { // each makes room for another
		_ = conn.Close()
		until(t, "it has left", func() bool { return s.connections.Open() == int64(2-i) })
	}
	metrics := s.ask("GET", "/metrics", "").body
	for _, want := range []string{`shoal_requests_refused_total{front="http",reason="connections"} 1`, "shoal_http_connections 1"} {
		if !strings.Contains(metrics, want+"\n") {
			t.Errorf("the metrics lack %s", want)
		}
	}
}

// A storm of connections that nobody has a place for leaves nothing behind.
func TestManyConnectionsThatAreTooMany(t *testing.T) {
	b := newFake("m", nil)
	s := serve(t, Options{MaxConnections: 1}, b)
	conn, from := s.dial()
	s.write(conn, "GET /m HTTP/1.1\r\nHost: h\r\n\r\n")
	call := next(t, "the query", b.held)
	for range 300 {
		late, err := net.Dial("tcp", s.addr) //nolint:noctx // it is local
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(late, "GET /m HTTP/1.1\r\nHost: h\r\n\r\n")
		t.Cleanup(func() { _ = late.Close() })
	}
	if err := b.respond(call, text("x")); err != nil {
		t.Fatal(err)
	}
	if got := s.read(from); got.body != "x" {
		t.Errorf("who was there before gets %q", got.body)
	}
	if runtime.GOOS == "linux" && s.connections.Open() != 1 {
		t.Errorf("%d connections are open", s.connections.Open())
	}
}

// Whoever holds connections and does nothing with them keeps nobody out, whatever they
// were used for before.
func TestIdleConnectionsMakeRoom(t *testing.T) {
	const get = "GET /m HTTP/1.1\r\nHost: h\r\n"
	for name, hold := range map[string]func(*server){
		"never used": func(s *server) { s.dial() },
		"used": func(s *server) {
			conn, from := s.dial()
			s.write(conn, get+"\r\n")
			s.read(from)
		},
		"used by net/http": func(s *server) {
			conn, from := s.dial()
			s.write(conn, get+"Expect: 100-continue\r\n\r\n")
			s.read(from)
		},
		"of HTTP/2": func(s *server) { s.dialHTTP2() },
	} {
		t.Run(name, func(t *testing.T) {
			busy := newFake("busy", nil)
			s := serve(t, Options{MaxConnections: 3}, answering("m", text("x")), busy)
			conn, from := s.dial()
			s.write(conn, "GET /busy HTTP/1.1\r\nHost: h\r\n\r\n")
			call := next(t, "the query", busy.held)
			for range 2 {
				hold(s)
			}
			for range 10 {
				// Who was told 503 comes again: the server may not know yet that an answer has arrived.
				until(t, "another gets in", func() bool {
					conn, from := s.dial()
					_, _ = io.WriteString(conn, get+"\r\n") // it may be closed already, with an answer
					got, err := http.ReadResponse(from, nil)
					return err == nil && got.StatusCode == 200
				})
			}
			if err := busy.respond(call, text("at last")); err != nil {
				t.Fatal(err)
			}
			if got := s.read(from); got.body != "at last" {
				t.Errorf("the one that was busy gets %q", got.body)
			}
			if logged := s.log.String(); !strings.Contains(logged, "idle connections are closed for others") {
				t.Errorf("the log is silent: %s", logged)
			}
		})
	}
}

// Whichever loop has it, the one that has been idle for longest is the first to go.
func TestTheIdlestOfAllLoopsMakesRoom(t *testing.T) {
	if front == frontNetHTTP {
		t.Skip("there are no loops")
	}
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(4)) // two loops, which get connections in turn
	s := serve(t, Options{MaxConnections: 2}, answering("m", text("x")))
	const get, nothing = "GET /m HTTP/1.1\r\nHost: h\r\n\r\n", "GET /nowhere HTTP/1.1\r\nHost: h\r\n\r\n" // which the loops answer themselves
	busy, from := s.dial()
	s.write(busy, nothing)
	s.read(from)
	conn, idle := s.dial()
	s.write(conn, nothing)
	s.read(idle)
	s.write(busy, nothing)
	s.read(from)
	until(t, "another gets in", func() bool {
		conn, from := s.dial()
		_, _ = io.WriteString(conn, get) // it may be closed already, with an answer
		got, err := http.ReadResponse(from, nil)
		return err == nil && got.StatusCode == 200
	})
	if _, err := idle.ReadByte(); err == nil || isTimeout(err) {
		t.Errorf("the idle one is open: %v", err)
	}
	s.write(busy, get)
	if got := s.read(from); got.StatusCode != 200 {
		t.Errorf("the other one is told %d", got.StatusCode)
	}
}

// Nor over TLS, before or after the handshake.
func TestIdleConnectionsMakeRoomOverTLS(t *testing.T) {
	model := httptest.NewUnstartedServer(nil) // only for its certificate
	model.StartTLS()
	defer model.Close()
	s := serve(t, Options{MaxConnections: 2, TLS: &tls.Config{Certificates: model.TLS.Certificates, MinVersion: tls.VersionTLS12}}, answering("m", text("x")))
	s.dial()
	for range 5 {
		until(t, "another gets in", func() bool {
			conn, from := s.dial()
			secure := tls.Client(conn, &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // it is local
			if secure.Handshake() != nil {
				return false
			}
			from.Reset(secure)
			_, _ = io.WriteString(secure, "GET /m HTTP/1.1\r\nHost: h\r\n\r\n") // it may be closed already
			got, err := http.ReadResponse(from, nil)
			return err == nil && got.StatusCode == 200
		})
	}
}
