package rest

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/shoalserve/shoal/internal/serving"
)

// telling answers with all that the model was shown.
func telling(name string) *fake {
	return newFake(name, func(c *serving.Call) error {
		r, b := c.Request, &strings.Builder{}
		fmt.Fprintf(b, "%s %s host %q id %v method %q key %q caller %q priority %d\n", r.Method, r.Target, r.Host, r.ID != "", c.Method, c.ShardKey, c.Caller, c.Priority)
		headers := r.Headers()
		for _, key := range slices.Sorted(maps.Keys(headers)) {
			fmt.Fprintf(b, "%q: %q\n", key, headers[key])
		}
		fmt.Fprintf(b, "%q", r.Body)
		return answer(c, text(b.String()), nil)
	})
}

// twins are the event loops and net/http over the same backends.
type twins struct{ loops, netHTTP *server }

func newTwins(t testing.TB) twins {
	backends := func() []*fake {
		post := telling("post")
		post.methods = []string{"POST"}
		refusing := newFake("full", func(*serving.Call) error { return serving.Errorf(serving.QueueFull, "full") })
		return []*fake{telling("m"), post, refusing, failing("bad", &serving.ModelError{Backend: "bad", Type: "E", Message: "no", Status: 418})}
	}
	opts := Options{MaxBodyBytes: 2000, MaxHeaderBytes: 5000, ReadHeaderTimeout: 300 * time.Millisecond, ReadTimeout: 300 * time.Millisecond, IdleTimeout: 300 * time.Millisecond}
	other := opts
	other.OnlyNetHTTP = true
	return twins{serve(t, opts, backends()...), serve(t, other, backends()...)}
}

// lastRequest ends a connection that is in step.
const lastRequest = "GET /m?last HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"

// said is what a server says to some bytes, until it ends the connection.
func (s *server) said(t testing.TB, parts ...string) []string {
	t.Helper()
	conn, err := net.Dial("tcp", s.addr) //nolint:noctx // it is local
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	from := bufio.NewReader(conn)
	for _, part := range append(parts, lastRequest) {
		if _, err := io.WriteString(conn, part); err != nil {
			break // it hung up already
		}
	}
	var all []string
	for {
		if _, err := from.Peek(1); err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatalf("%q: the connection does not end", parts)
			}
			return all
		}
		r, err := http.ReadResponse(from, nil)
		if err != nil {
			_, _ = io.Copy(io.Discard, from) // HEAD announces a body that does not come
			return append(all, "no response")
		}
		all = append(all, told(r))
	}
}

// told writes a response down, less what differs each time.
func told(r *http.Response) string {
	body, err := io.ReadAll(r.Body)
	if err != nil || bytes.Contains(body, []byte("HTTP/1.1 ")) {
		body = []byte("of HEAD") // ReadResponse was not told the method
	}
	r.Body.Close()
	for _, name := range []string{"Date", "X-Request-Id"} {
		if r.Header[name] != nil {
			r.Header.Set(name, "…")
		}
	}
	b := &strings.Builder{}
	fmt.Fprintf(b, "%s %s close %v length %d\n", r.Proto, r.Status, r.Close, r.ContentLength)
	if r.StatusCode >= 400 && r.Header["X-Request-Id"] == nil {
		return b.String() // net/http's own error; a reset may cut its text
	}
	_ = r.Header.Write(b)
	b.Write(instance.ReplaceAll(body, []byte(`"instance":"…"`)))
	return b.String()
}

var instance = regexp.MustCompile(`"instance":"[^"]*"`)

// compare holds both fronts' answers to some bytes against each other.
func (w twins) compare(t *testing.T, parts ...string) {
	t.Helper()
	var got, want []string
	for range 5 { // net/http may reset a connection, and an answer be lost by that
		got, want = w.loops.said(t, parts...), w.netHTTP.said(t, parts...)
		if slices.Equal(got, want) {
			return
		}
	}
	t.Errorf("%.300q:\nthe loops say  %.900q\nnet/http says %.900q", parts, got, want)
}

// requests are what clients may send, and what they must not.
var requests = []string{
	"GET /m HTTP/1.1\r\nHost: h\r\n\r\n",
	"GET /m?a=1&b=%20c HTTP/1.1\r\nHost: example.com:80\r\nAccept: */*\r\nUser-Agent: x\r\n\r\n",
	"POST /m HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nContent-Length: 8\r\n\r\n{\"x\": 1}",
	"POST /m HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nContent-Length: 8\r\n\r\n{\"x\": 1]",
	"POST /m HTTP/1.1\r\nhOST: h\r\nx-serve-call-method: go\r\nX-SERVE-SHARD-KEY: k\r\ncontent-length: 3\r\nx-a_b.c: 1\r\nX-a_B.c: 2\r\n\r\nabc",
	"POST /m HTTP/1.1\r\nHost: h\r\nX-Request-Id: mine\r\nX-Value: \t a \t b \t \r\nX-Empty:\r\n\r\n",
	"POST /m HTTP/1.1\r\nHost: h\r\nX-Request-Id: a\r\nX-Request-Id: b\r\nContent-Length: 0\r\n\r\n",
	"POST /m HTTP/1.1\r\nHost: h\r\nShoal-Timeout: 5s\r\n\r\n",
	"GET /m HTTP/1.1\r\nHost: h\r\nshoal-caller: a b\r\nSHOAL-PRIORITY: -2\r\n\r\n", "GET /m HTTP/1.1\r\nHost: h\r\nShoal-Priority: \r\nShoal-Caller: a\r\nShoal-Caller: b\r\n\r\n", "GET /m HTTP/1.1\r\nHost: h\r\nShoal-Priority: 9\r\n\r\n",
	"PUT /m HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nxy", "OPTIONS /m HTTP/1.1\r\nHost: h\r\n\r\n",
	"GET /post HTTP/1.1\r\nHost: h\r\n\r\n", "GET /nowhere HTTP/1.1\r\nHost: h\r\n\r\n", "GET /full HTTP/1.1\r\nHost: h\r\n\r\n", "GET /bad HTTP/1.1\r\nHost: h\r\n\r\n",
	"GET /livez HTTP/1.1\r\nHost: h\r\n\r\n", "GET /m/ HTTP/1.1\r\nHost: h\r\n\r\n", "GET /%6d HTTP/1.1\r\nHost: h\r\n\r\n", "GET //m HTTP/1.1\r\nHost: h\r\n\r\n",
	"GET /m#f HTTP/1.1\r\nHost: h\r\n\r\n", "GET /m?a#f HTTP/1.1\r\nHost: h\r\n\r\n", "GET /m?\x80 HTTP/1.1\r\nHost: h\r\n\r\n", "GET /m?a b HTTP/1.1\r\nHost: h\r\n\r\n",
	"GET http://h/m HTTP/1.1\r\nHost: h\r\n\r\n", "GET * HTTP/1.1\r\nHost: h\r\n\r\n", "GET m HTTP/1.1\r\nHost: h\r\n\r\n",
	"GET /m HTTP/1.0\r\nHost: h\r\n\r\n", "GET /m HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", "GET /m HTTP/2.0\r\nHost: h\r\n\r\n", "GET /m HTTP/1.1 \r\nHost: h\r\n\r\n",
	"GET  /m HTTP/1.1\r\nHost: h\r\n\r\n", "GET\t/m HTTP/1.1\r\nHost: h\r\n\r\n", "get /m HTTP/1.1\r\nHost: h\r\n\r\n", "BREW /m HTTP/1.1\r\nHost: h\r\n\r\n", "GET /m\r\nHost: h\r\n\r\n",
	"GET /m HTTP/1.1\r\n\r\n", "GET /m HTTP/1.1\r\nHost:\r\n\r\n", "GET /m HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "GET /m HTTP/1.1\r\nHost: a b\r\n\r\n", "GET /m HTTP/1.1\r\nHost: a/b\r\n\r\n",
	"POST /m HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", "POST /m HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
	"POST /m HTTP/1.1\r\nHost: h\r\nTransfer-Encoding : chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", "POST /m HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: identity\r\nContent-Length: 3\r\n\r\nabc",
	"POST /m HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc", "POST /m HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
	"POST /m HTTP/1.1\r\nHost: h\r\nContent-Length: +3\r\n\r\nabc", "POST /m HTTP/1.1\r\nHost: h\r\nContent-Length: 03\r\n\r\nabc", "POST /m HTTP/1.1\r\nHost: h\r\nContent-Length: 3, 3\r\n\r\nabc",
	"POST /m HTTP/1.1\r\nHost: h\r\nContent-Length: -1\r\n\r\n", "POST /m HTTP/1.1\r\nHost: h\r\nContent-Length: \r\n\r\n", "POST /m HTTP/1.1\r\nHost: h\r\nContent-Length: 0x3\r\n\r\nabc",
	"POST /m HTTP/1.1\r\nHost: h\r\nContent-Length: 99999999999999999999\r\n\r\n", "POST /m HTTP/1.1\r\nHost: h\r\nContent-Length: 2001\r\n\r\n", "GET /m HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc",
	"POST /m HTTP/1.1\r\nHost: h\r\nContent-Length : 3\r\n\r\nabc", "POST /m HTTP/1.1\r\nHost: h\r\n Content-Length: 3\r\n\r\nabc", "GET /m HTTP/1.1\r\nHost: h\r\nX: a\r\n b\r\n\r\n",
	"GET /m HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", "GET /m HTTP/1.1\r\nHost: h\r\nConnection: Keep-Alive\r\n\r\n", "GET /m HTTP/1.1\r\nHost: h\r\nConnection: keep-alive, close\r\n\r\n",
	"GET /m HTTP/1.1\r\nHost: h\r\nUpgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AA\r\n\r\n", "POST /m HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc",
	"POST /m HTTP/1.1\r\nHost: h\r\nExpect: odd\r\nContent-Length: 3\r\n\r\nabc", "GET /m HTTP/1.1\r\nHost: h\r\nPragma: no-cache\r\n\r\n", "GET /m HTTP/1.1\r\nHost: h\r\nTrailer: X\r\n\r\n", "GET /m HTTP/1.1\r\nHost: h\r\nTE: trailers\r\n\r\n",
	"GET /m HTTP/1.1\nHost: h\n\n", "GET /m HTTP/1.1\r\nHost: h\n\r\n", "GET /m HTTP/1.1\r\nHost: h\r\n\n", "GET /m HTTP/1.1\r\r\nHost: h\r\n\r\n", "GET /m HTTP/1.1\r\nHost: h\r\r\n\r\n", "\r\nGET /m HTTP/1.1\r\nHost: h\r\n\r\n", "\n", "\r\n\r\n", "\r",
	"GET /m HTTP/1.1\r\nHost: h\r\nBad Name: x\r\n\r\n", "GET /m HTTP/1.1\r\nHost: h\r\nNoColon\r\n\r\n", "GET /m HTTP/1.1\r\nHost: h\r\n: x\r\n\r\n", "GET /m HTTP/1.1\r\nHost: h\r\nX: a\x00b\r\n\r\n", "GET /m HTTP/1.1\r\nHost: h\r\nX: a\rb\r\n\r\n", "GET /m HTTP/1.1\r\nHost: h\r\nX: \xff\xfe\r\n\r\n", "GET /m HTTP/1.1\r\nHost: h\r\nÜ: 1\r\n\r\n", "GET /m HTTP/1.1\r\nHost: h\r\nX: a\x7fb\r\n\r\n",
	"GET /m HTTP/1.1\r\nHost: h\r\nShoal-Timeout: soon\r\n\r\n", "GET /m HTTP/1.1\r\nHost: h\r\nShoal-Timeout: \r\n\r\n", "GET /m HTTP/1.1\r\nHost: h\r\nShoal-Timeout: 1s\r\nShoal-Timeout: x\r\n\r\n",
	"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", "GET /m HTTP/1.1\r\nHost: h\r\nX-Large: " + strings.Repeat("x", 20_000) + "\r\n\r\n",
	"GET /m HTTP/1.1\r\nHost: h\r\n" + strings.Repeat("X: y\r\n", 70) + "\r\n",
}

func TestBothFrontsSayTheSame(t *testing.T) {
	if front != "" {
		t.Skip("it has both fronts already")
	}
	w := newTwins(t)
	for _, r := range requests {
		w.compare(t, r)
	}
}

// What was answered must not change how the rest of the connection is read.
func TestBothFrontsSayTheSameToSeveralRequestsAtOnce(t *testing.T) {
	if front != "" {
		t.Skip("it has both fronts already")
	}
	w := newTwins(t)
	plain := []string{requests[0], requests[2], requests[4], requests[8]}
	for i, r := range requests {
		w.compare(t, plain[i%4]+r+plain[(i+1)%4])
		w.compare(t, plain[i%4]+plain[(i+2)%4], r, plain[(i+1)%4])
	}
}

// FuzzBothFrontsSayTheSame sends bytes, cut in two, to both fronts.
func FuzzBothFrontsSayTheSame(f *testing.F) {
	if front != "" {
		f.Skip("it has both fronts already")
	}
	for i, r := range requests {
		f.Add([]byte(r), 0)
		f.Add([]byte(r+requests[(i+1)%len(requests)]), len(r)/2)
	}
	w := newTwins(f)
	f.Fuzz(func(t *testing.T, data []byte, cut int) {
		if len(data) > 4000 || bytes.Contains(data, []byte("PRI * HTTP/2.0")) {
			return // see TestHTTP2CannotBeginInTheMiddle
		}
		cut = min(max(cut, 0), len(data))
		w.compare(t, string(data[:cut]), string(data[cut:]))
	})
}

// Behind a proxy that would let one client speak on a connection of all.
func TestHTTP2CannotBeginInTheMiddle(t *testing.T) {
	s := serve(t, Options{}, answering("m", text("x")))
	const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
	for cut := range len(preface) {
		conn, from := s.dial()
		s.write(conn, "GET /m HTTP/1.1\r\nHost: h\r\n\r\n")
		if got := s.read(from); got.body != "x" {
			t.Fatalf("got %q", got.body)
		}
		s.write(conn, preface[:cut])
		_, _ = io.WriteString(conn, preface[cut:]+"\x00\x00\x00\x04\x00\x00\x00\x00\x00") // unless the first part was enough
		if got := s.read(from); got.StatusCode < 400 || !got.Close {
			t.Errorf("cut at %d: got %d", cut, got.StatusCode)
		}
	}
}
