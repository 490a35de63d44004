package rest

import (
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/shoalserve/shoal/internal/auth"
)

// What strangers may cost: those who send little hold little, and nobody holds a
// connection for longer than the timeouts say.

func TestAByteOfALargeBodyHoldsLittle(t *testing.T) {
	s := serve(t, Options{MaxInflightBytes: 1 << 20}, echoing())
	const many = 50
	for range many {
		conn, _ := s.dial()
		s.write(conn, "POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 900000\r\n\r\nx")
	}
	until(t, "all are counted", func() bool { return s.arriving.Held() >= many*firstRoom })
	if got := s.ask("POST", "/echo", strings.Repeat("x", 500_000)); got.StatusCode != 200 {
		t.Errorf("they keep others out: %d %s", got.StatusCode, got.body)
	}
}

// Whatever the body would be, the answer is known, and the connection is not kept.
func TestARefusalDoesNotWaitForTheBody(t *testing.T) {
	a, keys := guarded(t, map[string]auth.Grant{"alice": {Scopes: []auth.Scope{auth.Query}, Endpoints: []string{"m"}}})
	long := 10 * patience // for all but what is tested
	s := serve(t, Options{Auth: a, ReadTimeout: long, ReadHeaderTimeout: long, IdleTimeout: long}, answering("m", text("yes")), answering("other", text("yes")))
	alice := "Authorization: Bearer " + keys["alice"] + "\r\n"
	for name, c := range map[string]struct {
		line, header string
		status       int
	}{
		"no credential": {"POST /m", "", 401}, "a wrong one": {"POST /m", "Authorization: Bearer x\r\n", 401}, "two": {"POST /m", alice + alice, 401},
		"another endpoint": {"POST /other", alice, 403}, "no endpoint": {"POST /nowhere", alice, 404}, "a wrong method": {"DELETE /m", alice, 405},
		"a wrong header": {"POST /m", alice + "Shoal-Timeout: soon\r\n", 400}, "the server's own": {"GET /livez", "", 200}, "no method for it": {"POST /livez", "", 405},
	} {
		for _, body := range []string{"Content-Length: 10\r\n\r\nx", "Transfer-Encoding: chunked\r\n\r\n3\r\nx"} {
			t.Run(name, func(t *testing.T) {
				conn, from := s.dial()
				s.write(conn, c.line+" HTTP/1.1\r\nHost: x\r\n"+c.header+body)
				if got := s.read(from); got.StatusCode != c.status || !got.Close {
					t.Errorf("got %d %v %s", got.StatusCode, got.Header, got.body)
				}
				if n, err := io.Copy(io.Discard, from); n > 0 || isTimeout(err) {
					t.Errorf("then %d bytes, %v", n, err)
				}
			})
		}
	}
}

func isTimeout(err error) bool {
	timeout, ok := err.(net.Error) //nolint:errorlint // net does not wrap it
	return ok && timeout.Timeout()
}

// A request that is refused with its body there keeps its connection.
func TestARefusalWithItsBodyKeepsTheConnection(t *testing.T) {
	s := serve(t, Options{}, answering("m", text("yes")))
	conn, from := s.dial()
	for range 2 {
		for request, status := range map[string]int{"POST /nowhere": 404, "DELETE /m": 405, "POST /m": 200} {
			s.write(conn, request+" HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc")
			if got := s.read(from); got.StatusCode != status || got.Close {
				t.Errorf("%s: %d, closed %v", request, got.StatusCode, got.Close)
			}
		}
	}
}

// Whoever asks and asks and never reads is let go, whatever serves him.
func TestAClientThatAsksOnAndNeverReads(t *testing.T) {
	own := httptest.NewUnstartedServer(nil) // only for its certificate
	own.StartTLS()
	defer own.Close()
	secure := &tls.Config{Certificates: own.TLS.Certificates, MinVersion: tls.VersionTLS12}
	for name, path := range map[string]string{"own": "/metrics", "query": "/m", "TLS": "/metrics"} {
		t.Run(name, func(t *testing.T) {
			opts := Options{WriteTimeout: 200 * time.Millisecond, IdleTimeout: 10 * patience, ReadTimeout: 10 * patience}
			if name == "TLS" {
				opts.TLS = secure
			}
			s := serve(t, opts, answering("m", text(strings.Repeat("yes", 10_000))))
			conn, _ := s.dial()
			_ = conn.(*net.TCPConn).SetReadBuffer(4 << 10)
			if name == "TLS" {
				conn = tls.Client(conn, &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // it is the test's own server
			}
			many := bytes.Repeat([]byte("GET "+path+" HTTP/1.1\r\nHost: x\r\n\r\n"), 200)
			for end := time.Now().Add(patience); ; {
				_ = conn.SetWriteDeadline(end)
				if _, err := conn.Write(many); isTimeout(err) {
					t.Fatal("the connection is still open")
				} else if err != nil {
					break
				}
			}
			until(t, "it is let go", func() bool { return s.connections.Open() == 0 })
		})
	}
}

// dialHTTP2 opens a connection of a client that takes any answer, but reads nothing.
func (s *server) dialHTTP2() (net.Conn, *http2.Framer) {
	s.t.Helper()
	conn, from := s.dial()
	s.write(conn, http2.ClientPreface)
	framer := http2.NewFramer(conn, from)
	if err := framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1<<31 - 1}); err != nil {
		s.t.Fatal(err)
	}
	if err := framer.WriteWindowUpdate(0, 1<<30); err != nil {
		s.t.Fatal(err)
	}
	return conn, framer
}

func headBlock(s *server, method, path string, more ...string) []byte {
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	fields := append([]string{":method", method, ":scheme", "http", ":authority", "h", ":path", path}, more...)
	for i := 0; i < len(fields); i += 2 {
		if err := encoder.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1], Sensitive: true}); err != nil {
			s.t.Fatal(err)
		}
	}
	return block.Bytes()
}

// The headers of HTTP/2 requests whose bodies do not come are counted.
func TestHeadersThatWaitForTheirBodiesAreCounted(t *testing.T) {
	s := serve(t, Options{MaxInflightBytes: 1 << 20}, echoing())
	conn, framer := s.dialHTTP2()
	const streams, size = 20, 10 << 10
	for i := range uint32(streams) {
		block := headBlock(s, "POST", "/echo", "x-large", strings.Repeat("x", size))
		if err := framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1 + 2*i, BlockFragment: block, EndHeaders: true}); err != nil {
			t.Fatal(err)
		}
	}
	until(t, "they are counted", func() bool { return s.arriving.Held() >= streams*(size+firstRoom) })
	settled := false
	for !settled {
		frame, err := framer.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		if settings, ok := frame.(*http2.SettingsFrame); ok && !settings.IsAck() {
			if n, ok := settings.Value(http2.SettingMaxConcurrentStreams); !ok || n != maxStreams {
				t.Errorf("the client may have %d streams", n)
			}
			settled = true
		}
	}
	_ = conn.Close()
	until(t, "nothing is counted any more", func() bool { return s.arriving.Held() == 0 })
	_, framer = s.dialHTTP2()
	if err := s.arriving.Take(1 << 20); err != nil {
		t.Fatal(err)
	}
	defer s.arriving.Give(1 << 20)
	if err := framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: headBlock(s, "POST", "/echo"), EndHeaders: true}); err != nil {
		t.Fatal(err)
	}
	for {
		frame, err := framer.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		if answer, ok := frame.(*http2.HeadersFrame); ok {
			fields, err := hpack.NewDecoder(4096, nil).DecodeFull(answer.HeaderBlockFragment())
			if err != nil || fields[0].Value != "503" {
				t.Errorf("got %v, %v", fields, err)
			}
			return
		}
	}
}
