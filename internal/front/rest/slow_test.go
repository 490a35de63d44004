package rest

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/shoalserve/shoal/internal/serving"
)

func TestARequestThatComesByteByByte(t *testing.T) {
	s := serve(t, Options{}, telling("m"))
	conn, from := s.dial()
	const request = "POST /m?a=1 HTTP/1.1\r\nHost: h\r\nX-A: 1\r\nContent-Length: 10\r\n\r\n0123456789"
	for i := range len(request) {
		s.write(conn, request[i:i+1])
	}
	want := "POST /m?a=1 host \"h\" id true method \"\" key \"\" caller \"\" priority 0\n\"Content-Length\": [\"10\"]\n\"X-A\": [\"1\"]\n\"0123456789\""
	if got := s.read(from); got.body != want {
		t.Errorf("got %q", got.body)
	}
}

// Two requests at once, cut into three wherever that is possible.
func TestRequestsThatComeInPieces(t *testing.T) {
	s := serve(t, Options{}, telling("m"))
	const first, second = "POST /m HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nfirst", "GET /m?second HTTP/1.1\r\nHost: h\r\n\r\n"
	conn, from := s.dial()
	for i := range len(first + second) {
		for _, part := range []string{(first + second)[:i], (first + second)[i:]} {
			s.write(conn, part)
		}
		if got := s.read(from); !strings.Contains(got.body, `"first"`) {
			t.Fatalf("cut at %d: got %q", i, got.body)
		}
		if got := s.read(from); !strings.Contains(got.body, "GET /m?second ") {
			t.Fatalf("cut at %d: got %q", i, got.body)
		}
	}
}

func TestManyRequestsAtOnceAreAnsweredInTheirOrder(t *testing.T) {
	s := serve(t, Options{}, newFake("m", func(c *serving.Call) error {
		go func() { _ = answer(c, text(c.Request.Target), nil) }()
		return nil
	}))
	conn, from := s.dial()
	const many = 2000 // more than one read takes
	go func() {
		b := &bytes.Buffer{}
		for i := range many {
			fmt.Fprintf(b, "GET /m?%d HTTP/1.1\r\nHost: h\r\n\r\n", i)
		}
		_, _ = conn.Write(b.Bytes())
	}()
	for i := range many {
		if got := s.read(from); got.body != fmt.Sprintf("/m?%d", i) {
			t.Fatalf("answer %d is %q", i, got.body)
		}
	}
}

func TestLargeBodiesGoBothWaysWhole(t *testing.T) {
	s := serve(t, Options{}, echoing())
	conn, from := s.dial()
	for _, size := range []int{1, 4095, 4096, 8 << 10, 64 << 10, 300 << 10, 5 << 20, 10 << 20} {
		body := make([]byte, size)
		for i := range body {
			body[i] = byte(i * i >> 7)
		}
		go func() {
			_, _ = fmt.Fprintf(conn, "POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n", size)
			_, _ = conn.Write(body)
		}()
		if got := s.read(from); got.body != string(body) {
			t.Errorf("%d bytes came back as %d others", size, len(got.body))
		}
	}
}

// A client that does not read its answer holds up nobody else, not even those of
// its batch, and gets it whole when it does read.
func TestAClientThatReadsSlowly(t *testing.T) {
	if front == frontNetHTTP || runtime.GOOS != "linux" {
		t.Skip("net/http writes in a goroutine of the connection")
	}
	large := bytes.Repeat([]byte("0123456789abcdef"), 1<<20) // more than the kernel buffers
	b := newFake("m", nil)
	s := serve(t, Options{}, b)
	slow, from := s.dial()
	quick, quickFrom := s.dial()
	s.write(slow, "GET /m HTTP/1.1\r\nHost: h\r\n\r\n")
	forSlow := next(t, "the call", b.held)
	s.write(quick, "GET /m HTTP/1.1\r\nHost: h\r\n\r\n")
	forQuick := next(t, "the call", b.held)
	answered := make(chan error, 1)
	go func() { // as one goroutine finishes a batch
		err := b.respond(forSlow, serving.Response{Format: serving.Bytes, Body: large})
		for i := range large { // it is the model's again
			large[i] = '!'
		}
		answered <- err
		_ = b.respond(forQuick, text("quick"))
	}()
	if err := next(t, "the delivery", answered); err != nil {
		t.Fatal(err)
	}
	if got := s.read(quickFrom); got.body != "quick" {
		t.Errorf("got %q", got.body)
	}
	want := strings.Repeat("0123456789abcdef", 1<<20)
	if got := s.read(from); got.body != want {
		t.Errorf("%d bytes arrived, not the answer's", len(got.body))
	}
	s.write(slow, "GET /livez HTTP/1.1\r\nHost: h\r\n\r\n")
	if got := s.read(from); got.body != "ok\n" {
		t.Errorf("the next answer is %q", got.body)
	}
}

func TestAClientThatNeverReadsIsLetGo(t *testing.T) {
	if front == frontNetHTTP || runtime.GOOS != "linux" {
		t.Skip("net/http is given no such limit")
	}
	s := serve(t, Options{WriteTimeout: 50 * time.Millisecond}, answering("m", serving.Response{Format: serving.Bytes, Body: make([]byte, 16<<20)}))
	conn, from := s.dial()
	s.write(conn, "GET /m HTTP/1.1\r\nHost: h\r\n\r\n")
	if _, err := from.Peek(1); err != nil { // its answer has begun
		t.Fatal(err)
	}
	until(t, "it is let go", func() bool { return s.connections.Open() == 0 && s.unsent.Load() == 0 })
	if n, err := io.Copy(io.Discard, from); err == nil && n >= 16<<20 {
		t.Errorf("all %d bytes arrived", n)
	}
}

// The same where net/http serves. A connection that had an answer longer ago than one
// may take gets the next one.
func TestNetHTTPLetsGoOfAClientThatNeverReads(t *testing.T) {
	large := make([]byte, 64<<20)
	s := serve(t, Options{WriteTimeout: 300 * time.Millisecond, OnlyNetHTTP: true}, answering("m", serving.Response{Format: serving.Bytes, Body: large}), answering("small", text("x")))
	conn, from := s.dial()
	s.write(conn, "GET /m HTTP/1.1\r\nHost: h\r\n\r\n")
	if _, err := from.Peek(1); err != nil { // its answer has begun
		t.Fatal(err)
	}
	until(t, "it is let go", func() bool { return s.connections.Open() == 0 })
	if n, err := io.Copy(io.Discard, from); err == nil && n >= int64(len(large)) {
		t.Errorf("all %d bytes arrived", n)
	}
	conn, from = s.dial()
	for range 3 {
		s.write(conn, "GET /small HTTP/1.1\r\nHost: h\r\n\r\n")
		if got := s.read(from); got.body != "x" {
			t.Errorf("got %q", got.body)
		}
		time.Sleep(400 * time.Millisecond) // longer than an answer may take
	}
}

func TestTooManyClientsThatDoNotRead(t *testing.T) {
	if front == frontNetHTTP || runtime.GOOS != "linux" {
		t.Skip("net/http is given no such limit")
	}
	s := serve(t, Options{}, answering("m", serving.Response{Format: serving.Bytes, Body: make([]byte, 16<<20)}))
	s.unsent.Store(maxUnsent)
	conn, from := s.dial()
	s.write(conn, "GET /m HTTP/1.1\r\nHost: h\r\n\r\n")
	if n, _ := io.Copy(io.Discard, from); n >= 16<<20 {
		t.Errorf("all %d bytes arrived", n)
	}
	if !strings.Contains(s.log.String(), errUnsent.Error()) {
		t.Errorf("logged %s", s.log)
	}
	s.unsent.Store(0)
}

// Connections that are reset at any moment, with or without an end before, harm nobody
// else; nor do they where no body has room.
func TestConnectionsThatAreReset(t *testing.T) {
	for name, opts := range map[string]Options{"": {}, "no room": {MaxInflightBytes: 50}, "no time": {ReadTimeout: time.Millisecond}} {
		for _, end := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s,end=%v", name, end), func(t *testing.T) { resetConnections(t, opts, end) })
		}
	}
}

func resetConnections(t *testing.T, opts Options, end bool) {
	s := serve(t, opts, newFake("m", func(c *serving.Call) error {
		go func() { _ = answer(c, serving.Response{Format: serving.Bytes, Body: c.Request.Body}, nil) }()
		return nil
	}))
	request := "POST /m HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\n" + strings.Repeat("x", 100)
	var clients sync.WaitGroup
	for client := range 8 {
		clients.Go(func() {
			for n := 0; n < len(request); n += 2 {
				conn, err := net.Dial("tcp", s.addr) //nolint:noctx // it is local
				if err != nil {
					t.Error(err)
					return
				}
				_ = conn.(*net.TCPConn).SetLinger(0)
				_, _ = io.WriteString(conn, request[:(n+client)%len(request)+1])
				if end {
					_ = conn.(*net.TCPConn).CloseWrite()
				}
				_ = conn.Close()
			}
		})
	}
	clients.Wait()
	until(t, "all are closed, and nothing is counted", func() bool { return s.connections.Open() == 0 && s.arriving.Held() == 0 })
	if got := s.ask("GET", "/m", ""); got.StatusCode != 200 {
		t.Errorf("got %d %q", got.StatusCode, got.body)
	}
	if strings.Contains(s.log.String(), "panic") {
		t.Errorf("logged %s", s.log)
	}
}

func TestManyIdleConnections(t *testing.T) {
	const many = 400
	s := serve(t, Options{}, answering("m", text("x")))
	conns := make([]net.Conn, many)
	for round := range 2 {
		for i := range conns {
			if round == 0 {
				conns[i], _ = s.dial()
			}
			s.write(conns[i], "GET /m HTTP/1.1\r\nHost: h\r\n\r\n")
		}
		buf := make([]byte, 1024)
		for _, c := range conns {
			if n, err := c.Read(buf); err != nil || !bytes.HasSuffix(buf[:n], []byte("x")) {
				t.Fatalf("%q, %v", buf[:n], err)
			}
		}
	}
}

func TestIdleConnectionsEnd(t *testing.T) {
	s := serve(t, Options{IdleTimeout: 30 * time.Millisecond}, answering("m", text("x")))
	conn, from := s.dial()
	s.write(conn, "GET /m HTTP/1.1\r\nHost: h\r\n\r\n")
	s.read(from)
	if rest, err := io.ReadAll(from); err != nil || len(rest) > 0 {
		t.Errorf("got %q, %v", rest, err)
	}
}

// What a query brought and its answer outlive the connection's next requests.
func TestMemoryIsNotUsedTwice(t *testing.T) {
	b := newFake("m", nil)
	s := serve(t, Options{}, b)
	conn, from := s.dial()
	var requests []*serving.Request
	for i := range 50 {
		s.write(conn, fmt.Sprintf("POST /m?%d HTTP/1.1\r\nHost: h%d\r\nX-Request-Id: id%d\r\nX-N: %d\r\nContent-Length: 3\r\n\r\n%03d", i, i, i, i, i))
		c := next(t, "the call", b.held)
		requests = append(requests, c.Request)
		b.respond(c, text(fmt.Sprint(i)))
		if got := s.read(from); got.body != fmt.Sprint(i) {
			t.Fatalf("answer %d is %q", i, got.body)
		}
	}
	for i, r := range requests {
		n := fmt.Sprint(i)
		if r.Target != "/m?"+n || r.ID != "id"+n || r.Host != "h"+n || r.Get("X-N") != n || string(r.Body) != fmt.Sprintf("%03d", i) {
			t.Errorf("request %d is %s %s %s %s %s", i, r.Target, r.ID, r.Host, r.Get("X-N"), r.Body)
		}
	}
}
