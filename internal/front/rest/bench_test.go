package rest

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/shoalserve/shoal/internal/serving"
)

// echo is the least that an HTTP server can do with a request.
func echo(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(err)
	}
	w.Header()["Content-Type"] = []string{"text/plain; charset=utf-8"}
	w.Header()["Content-Length"] = []string{strconv.Itoa(len(body))}
	_, _ = w.Write(body)
}

func echoing() *fake {
	return newFake("echo", func(c *serving.Call) error {
		return answer(c, serving.Response{Format: serving.Text, Body: c.Request.Body}, nil)
	})
}

// discard is a ResponseWriter that costs next to nothing.
type discard struct{ header http.Header }

func (d *discard) Header() http.Header         { return d.header }
func (d *discard) WriteHeader(int)             {}
func (d *discard) Write(p []byte) (int, error) { return len(p), nil }

// body is a request's body that can be read again and again.
type body struct{ strings.Reader }

func (*body) Close() error { return nil }

// BenchmarkHandler measures what the front costs a request, without net/http.
func BenchmarkHandler(b *testing.B) {
	s := serve(b, Options{}, echoing())
	for _, bench := range []struct {
		name    string
		handler http.Handler
	}{{"echo", http.HandlerFunc(echo)}, {"front", s.Handler()}} {
		b.Run(bench.name, func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				const text = `{"number": 1}`
				content := &body{}
				r, err := http.NewRequestWithContext(b.Context(), http.MethodPost, "/echo", content)
				if err != nil {
					b.Error(err)
					return
				}
				r.RequestURI, r.ContentLength = "/echo", int64(len(text))
				r.Header["Content-Type"] = []string{"application/json"}
				w := &discard{header: make(http.Header)}
				for pb.Next() {
					content.Reset(text)
					clear(w.header)
					bench.handler.ServeHTTP(w, r)
				}
			})
		})
	}
}

// BenchmarkConnections measures requests over 64 keep-alive connections, against
// a bare net/http server that echoes.
func BenchmarkConnections(b *testing.B) {
	s := serve(b, Options{}, echoing())
	listener, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // it is local
	if err != nil {
		b.Fatal(err)
	}
	bare := &http.Server{Handler: http.HandlerFunc(echo)} //nolint:gosec // its clients are tame
	go func() { _ = bare.Serve(listener) }()              // ends with Close
	b.Cleanup(func() { _ = bare.Close() })
	for _, bench := range []struct{ name, addr string }{{"echo", listener.Addr().String()}, {"front", s.addr}} {
		b.Run(bench.name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetParallelism(32)
			b.RunParallel(func(pb *testing.PB) {
				if err := keepAsking(bench.addr, pb.Next); err != nil {
					b.Error(err)
				}
			})
		})
	}
}

// keepAsking sends requests over one connection, while more says so.
func keepAsking(addr string, more func() bool) error {
	conn, err := net.Dial("tcp", addr) //nolint:noctx // it is local
	if err != nil {
		return err
	}
	defer conn.Close()
	from := bufio.NewReader(conn)
	request := []byte("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 13\r\n\r\n{\"number\": 1}")
	for more() {
		if _, err := conn.Write(request); err != nil {
			return err
		}
		for { // to the end of the headers
			line, err := from.ReadSlice('\n')
			if err != nil {
				return err
			}
			if len(line) <= 2 {
				break
			}
		}
		if _, err := from.Discard(13); err != nil {
			return err
		}
	}
	return nil
}
