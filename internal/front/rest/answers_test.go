package rest

import (
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/shoalserve/shoal/internal/serving"
)

func TestAnswersGoOutAsWhatTheModelReturned(t *testing.T) {
	for _, c := range []struct {
		name     string
		response serving.Response
		status   int
		kind     string
		length   string
	}{
		{"json", serving.Response{Format: serving.JSON, Body: []byte(`{"a": 1}`)}, 200, "application/json", "8"},
		{"text", serving.Response{Format: serving.Text, Body: []byte("grüezi")}, 200, "text/plain; charset=utf-8", "7"},
		{"bytes", serving.Response{Format: serving.Bytes, Body: []byte{0, 255}}, 200, "application/octet-stream", "2"},
		{"empty", serving.Response{Format: serving.Bytes}, 200, "application/octet-stream", "0"},
		{"large", serving.Response{Format: serving.Bytes, Body: make([]byte, 100_000)}, 200, "application/octet-stream", "100000"},
		{"full", serving.Response{
			Format: serving.Full, Status: 418, Body: []byte("short"),
			Header: http.Header{"content-type": {"text/teapot"}, "X-Kind": {"a", "b"}},
		}, 418, "text/teapot", "5"},
		{"full without status", serving.Response{Format: serving.Full, Header: http.Header{"Content-Type": {"x/y"}}, Body: []byte("x")}, 200, "x/y", "1"},
		{"no content", serving.Response{Format: serving.Full, Status: 204, Body: []byte("x")}, 204, "", ""},
		{"not modified", serving.Response{Format: serving.Full, Status: 304, Body: []byte("x"), Header: http.Header{"Etag": {`"1"`}}}, 304, "", ""},
		{"a status that is none", serving.Response{Format: serving.Full, Status: 1000, Header: http.Header{"Content-Type": {"x/y"}}, Body: []byte("x")}, 500, "x/y", "1"},
		{"an informational status", serving.Response{Format: serving.Full, Status: 101, Header: http.Header{"Content-Type": {"x/y"}}, Body: []byte("x")}, 500, "x/y", "1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := serve(t, Options{}, answering("m", c.response))
			got := s.ask("GET", "/m", "")
			want := string(c.response.Body)
			if c.length == "" {
				want = ""
			}
			if got.StatusCode != c.status || got.body != want {
				t.Errorf("got %d with %d bytes", got.StatusCode, len(got.body))
			}
			if kind := got.Header.Get("Content-Type"); kind != c.kind {
				t.Errorf("content type %q", kind)
			}
			if length := got.Header.Get("Content-Length"); length != c.length {
				t.Errorf("content length %q", length)
			}
			if got.Header.Get("Shoal-Backend") != "m" || got.Header.Get("X-Request-Id") == "" {
				t.Errorf("headers %v", got.Header)
			}
			if want := c.response.Header["X-Kind"]; !slices.Equal(got.Header["X-Kind"], want) {
				t.Errorf("X-Kind: %v", got.Header["X-Kind"])
			}
			if again := s.ask("HEAD", "/m", ""); again.StatusCode != c.status || again.body != "" || again.Header.Get("Content-Length") != c.length {
				t.Errorf("HEAD: %d, %q, %v", again.StatusCode, again.body, again.Header)
			}
		})
	}
}

func TestAModelCannotForgeTheResponse(t *testing.T) {
	header := http.Header{
		"X-Mine": {"1"}, "x-mine": {"2"}, "Server-Timing": {"tokenizer;dur=3"}, "X-Request-Id": {"forged"}, "shoal-backend": {"forged"},
		"Connection": {"close"}, "Content-Length": {"9999"}, "Transfer-Encoding": {"chunked"}, "Keep-Alive": {"timeout=1"},
		"Trailer": {"X-Late"}, "Trailer:X-Late": {"1"}, "Upgrade": {"h2c"}, "": {"empty"}, "Bad Name": {"1"},
		"X-Split\r\nX-Forged": {"1"}, "X-Value": {"1\r\nX-Forged: 1"}, "X-Nul": {"a\x00b"}, "Date-Line": {"a\nb"},
	}
	for name, b := range map[string]*fake{
		"answer": answering("m", serving.Response{Format: serving.Full, Header: header, Body: []byte("body")}),
		"error":  failing("m", &serving.ModelError{Backend: "m", Type: "E", Status: 500, Header: header}),
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, Options{}, b)
			conn, from := s.dial()
			s.write(conn, "GET /m HTTP/1.1\r\nHost: h\r\nX-Request-Id: mine\r\n\r\n")
			got := s.read(from)
			mine := slices.Sorted(slices.Values(got.Header["X-Mine"]))
			if !slices.Equal(mine, []string{"1", "2"}) || got.Close || len(got.body) == 9999 {
				t.Errorf("got %v, close %v", got.Header, got.Close)
			}
			for _, value := range []string{got.Header.Get("X-Request-Id"), got.Header.Get("Shoal-Backend")} {
				if value == "forged" {
					t.Errorf("headers %v", got.Header)
				}
			}
			for _, name := range []string{"X-Forged", "X-Late", "Upgrade", "Keep-Alive", "X-Nul", "X-Value", "Date-Line", "Bad Name", "Trailer"} {
				if value, ok := got.Header[name]; ok {
					t.Errorf("header %s: %q", name, value)
				}
			}
			if timing := got.Header["Server-Timing"]; len(timing) != 2 {
				t.Errorf("Server-Timing: %q", timing)
			}
			// The connection is still in step.
			s.write(conn, "GET /livez HTTP/1.1\r\nHost: h\r\n\r\n")
			if again := s.read(from); again.body != "ok\n" {
				t.Errorf("the next answer: %q", again.body)
			}
		})
	}
}

// A Go model may return the same Response again and again.
func TestAResponseOfTheModelIsNotWrittenTo(t *testing.T) {
	shared := append(make([]string, 0, 8), "model;dur=1")
	s := serve(t, Options{}, answering("m", serving.Response{Format: serving.Full, Header: http.Header{"Server-Timing": shared}}))
	done := make(chan error, 8)
	for range cap(done) {
		go func() {
			got, err := s.try("GET", "/m", "")
			if err == nil && len(got.Header["Server-Timing"]) != 2 {
				err = fmt.Errorf("Server-Timing: %q", got.Header["Server-Timing"])
			}
			done <- err
		}()
	}
	for range cap(done) {
		if err := next(t, "an answer", done); err != nil {
			t.Error(err)
		}
	}
}

func TestServerTimingTellsAboutTheBatch(t *testing.T) {
	const want = `queue;dur=0.412, compute;dur=5.031, batch;desc="size=4 reason=full id=17"`
	s := serve(t, Options{}, answering("m", text("x")), failing("e", &serving.ModelError{Status: 500}))
	for _, path := range []string{"/m", "/e"} {
		if got := s.ask("GET", path, "").Header["Server-Timing"]; !slices.Equal(got, []string{want}) {
			t.Errorf("%s: got %q", path, got)
		}
	}
	quiet := serve(t, Options{NoServerTiming: true}, answering("m", text("x")))
	if got, ok := quiet.ask("GET", "/m", "").Header["Server-Timing"]; ok {
		t.Errorf("got %q", got)
	}
}

func TestTheModelSeesTheRequest(t *testing.T) {
	b := newFake("m", nil)
	s := serve(t, Options{}, b)
	got := make(chan reply, 1)
	go func() {
		r, _ := s.try("POST", "/m?a=1&b=%C3%BC", "\x00body", "X-Request-Id", "mine", "X-Some", "1", "X-Some", "2")
		got <- r
	}()
	c := next(t, "the call", b.held)
	r := c.Request
	if r.ID != "mine" || r.Method != "POST" || r.Target != "/m?a=1&b=%C3%BC" || string(r.Body) != "\x00body" || !slices.Equal(r.Headers()["X-Some"], []string{"1", "2"}) {
		t.Errorf("the model sees %+v", r)
	}
	b.respond(c, text("x"))
	if next(t, "the answer", got).body != "x" {
		t.Error("wrong answer")
	}
}

func TestARequestToAProxyIsSeenAsAnyOther(t *testing.T) {
	s := serve(t, Options{}, newFake("m", func(c *serving.Call) error { return answer(c, text(c.Request.Target), nil) }))
	conn, from := s.dial()
	s.write(conn, "GET http://h/m?a=1 HTTP/1.1\r\nHost: h\r\n\r\n")
	if got := s.read(from); got.body != "/m?a=1" {
		t.Errorf("the target is %q", got.body)
	}
}

func TestTheCallGoesWhereItsHeadersSay(t *testing.T) {
	s := serve(t, Options{}, newFake("m", func(c *serving.Call) error { return answer(c, text(c.Method+" "+c.ShardKey), nil) }))
	if got := s.ask("GET", "/m", "", "X-Serve-Call-Method", "other", "X-Serve-Shard-Key", "k").body; got != "other k" {
		t.Errorf("got %q", got)
	}
	if got := s.ask("GET", "/m", "").body; got != " " {
		t.Errorf("the next call got %q", got)
	}
}

func TestRequestIDs(t *testing.T) {
	s := serve(t, Options{}, newFake("m", func(c *serving.Call) error { return answer(c, text(c.Request.ID), nil) }))
	own := regexp.MustCompile(`^[0-9a-f]{16}$`)
	for _, c := range []struct {
		name string
		ids  []string
		kept bool
	}{
		{"none", nil, false},
		{"the client's own", []string{"my-own/id:1"}, true},
		{"the longest", []string{strings.Repeat("x", 128)}, true},
		{"too long", []string{strings.Repeat("x", 129)}, false},
		{"with a space", []string{"a b"}, false},
		{"not ASCII", []string{"ü"}, false},
		{"empty", []string{""}, false},
		{"two", []string{"a", "b"}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			var header []string
			for _, id := range c.ids {
				header = append(header, "X-Request-Id", id)
			}
			got := s.ask("GET", "/m", "", header...)
			id := got.Header.Get("X-Request-Id")
			if id != got.body {
				t.Errorf("the client sees %q, the model %q", id, got.body)
			}
			if c.kept && id != c.ids[0] || !c.kept && !own.MatchString(id) {
				t.Errorf("got id %q", id)
			}
		})
	}
	if s.ask("GET", "/m", "").body == s.ask("GET", "/m", "").body {
		t.Error("two requests got one id")
	}
	if p := s.problem(s.ask("GET", "/nowhere", "", "X-Request-Id", "mine"), 404, serving.EndpointNotFound); p.Instance != "mine" {
		t.Errorf("instance %q", p.Instance)
	}
}
