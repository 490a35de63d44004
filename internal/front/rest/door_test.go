package rest

import (
	"fmt"
	"io"
	"net"
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
	s := serve(t, Options{MaxConnections: 3}, answering("m", text("x")))
	conns := make([]net.Conn, 3)
	for i := range conns {
		conn, from := s.dial()
		conns[i] = conn
		// The last one is net/http's by now.
		s.write(conn, "GET /m HTTP/1.1\r\nHost: h\r\n"+map[bool]string{true: "Expect: 100-continue\r\n"}[i == 2]+"\r\n")
		if got := s.read(from); got.StatusCode != 200 {
			t.Fatalf("connection %d: %d %s", i, got.StatusCode, got.body)
		}
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
	s := serve(t, Options{MaxConnections: 1}, answering("m", text("x")))
	conn, from := s.dial()
	s.write(conn, "GET /m HTTP/1.1\r\nHost: h\r\n\r\n")
	s.read(from)
	for range 300 {
		late, err := net.Dial("tcp", s.addr) //nolint:noctx // it is local
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(late, "GET /m HTTP/1.1\r\nHost: h\r\n\r\n")
		defer late.Close()
	}
	s.write(conn, "GET /m HTTP/1.1\r\nHost: h\r\n\r\n")
	if got := s.read(from); got.body != "x" {
		t.Errorf("who was there before gets %q", got.body)
	}
	if runtime.GOOS == "linux" && s.connections.Open() != 1 {
		t.Errorf("%d connections are open", s.connections.Open())
	}
}
