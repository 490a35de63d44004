package rest

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/shoalserve/shoal/batch"
	"github.com/shoalserve/shoal/internal/front/problem"
	"github.com/shoalserve/shoal/internal/serving"
)

func TestAnUnknownRouteSaysWhereTheRoutesAre(t *testing.T) {
	s := serve(t, Options{}, answering("m", text("x")))
	for _, path := range []string{"/", "/nowhere", "/m/", "/-/x", "/livez/", "/%2e%2e/m"} {
		p := s.problem(s.ask("GET", path, ""), 404, serving.EndpointNotFound)
		if !strings.Contains(p.Detail, "/-/routes") {
			t.Errorf("%s: %s", path, p.Detail)
		}
	}
}

func TestWrongMethods(t *testing.T) {
	b := answering("m", text("x"))
	b.methods = []string{"POST", "PUT"}
	s := serve(t, Options{}, b)
	for _, c := range []struct{ method, path, allow string }{
		{"GET", "/m", "POST, PUT"},
		{"HEAD", "/m", "POST, PUT"},
		{"BREW", "/m", "POST, PUT"},
		{"POST", "/livez", "GET, HEAD"},
		{"DELETE", "/-/routes", "GET, HEAD"},
		{"PUT", "/metrics", "GET, HEAD"},
		{"PUT", "/readyz", "GET, HEAD"},
	} {
		got := s.ask(c.method, c.path, "")
		if got.Header.Get("Allow") != c.allow || got.StatusCode != 405 {
			t.Errorf("%s %s: %d, Allow %q", c.method, c.path, got.StatusCode, got.Header.Get("Allow"))
		}
		if c.method != "HEAD" {
			s.problem(got, 405, methodNotAllowed)
		}
	}
	for path, allow := range map[string]string{"/m": "POST, PUT", "/livez": "GET, HEAD"} {
		if got := s.ask("OPTIONS", path, ""); got.StatusCode != 204 || got.Header.Get("Allow") != allow || got.body != "" {
			t.Errorf("OPTIONS %s: %d, Allow %q", path, got.StatusCode, got.Header.Get("Allow"))
		}
	}
}

func TestAModelMayTakeOptionsItself(t *testing.T) {
	b := answering("m", text("mine"))
	b.methods = []string{"OPTIONS"}
	if got := serve(t, Options{}, b).ask("OPTIONS", "/m", ""); got.body != "mine" {
		t.Errorf("got %d %q", got.StatusCode, got.body)
	}
}

func TestABodyThatIsTooLarge(t *testing.T) {
	s := serve(t, Options{MaxBodyBytes: 100}, newFake("m", func(c *serving.Call) error {
		return answer(c, text(fmt.Sprint(len(c.Request.Body))), nil)
	}))
	large := strings.Repeat("x", 101)
	for name, request := range map[string]string{
		"known length":   "Content-Length: 1000000000\r\n\r\n",
		"unknown length": "Transfer-Encoding: chunked\r\n\r\n65\r\n" + large + "\r\n0\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			conn, from := s.dial()
			s.write(conn, "POST /m HTTP/1.1\r\nHost: h\r\n"+request)
			got := s.read(from)
			p := s.problem(got, 413, serving.TooLarge)
			if !got.Close || !strings.Contains(p.Detail, "100 bytes") {
				t.Errorf("close %v, %s", got.Close, p.Detail)
			}
		})
	}
	for name, request := range map[string]string{
		"known length":   "Content-Length: 100\r\n\r\n" + large[:100],
		"unknown length": "Transfer-Encoding: chunked\r\n\r\n64\r\n" + large[:100] + "\r\n0\r\n\r\n",
	} {
		t.Run("just fits, "+name, func(t *testing.T) {
			conn, from := s.dial()
			s.write(conn, "POST /m HTTP/1.1\r\nHost: h\r\n"+request)
			if got := s.read(from); got.body != "100" {
				t.Errorf("got %d %q", got.StatusCode, got.body)
			}
		})
	}
}

func TestMalformedJSON(t *testing.T) {
	s := serve(t, Options{}, answering("m", text("taken")))
	for _, c := range []struct {
		name, body   string
		offset       int64
		line, column int
	}{
		{"a comma too many", `{"a": 1,, }`, 8, 1, 9},
		{"in the third line", "{\n\"a\": [\n1 2]}", 11, 3, 3},
		{"truncated", `{"a": [1`, 8, 1, 9},
		{"truncated after a line", "[1,\n", 4, 2, 1},
		{"truncated literal", "tru", 3, 1, 4},
		{"wrong literal", "trux", 3, 1, 4},
		{"empty", "", 0, 1, 1},
		{"more than one value", "1 2", 2, 1, 3},
		{"not UTF-8", "[\"\xff\"]", 2, 1, 3},
		{"a line break in a text", "\"a\nb\"", 2, 1, 3},
		{"NaN", "[NaN]", 1, 1, 2},
		{"a deep nest", strings.Repeat("[", 20_000), problem.MaxDepth, 1, problem.MaxDepth + 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, kind := range []string{"application/json", "application/JSON; charset=utf-8", "application/problem+json"} {
				p := s.problem(s.ask("POST", "/m", c.body, "Content-Type", kind), 400, serving.InvalidArgument)
				if p.Offset == nil || *p.Offset != c.offset || p.Line != c.line || p.Column != c.column {
					t.Errorf("got offset %v, line %d, column %d: %s", p.Offset, p.Line, p.Column, p.Detail)
				}
				if want := fmt.Sprintf("at byte %d (line %d, column %d)", c.offset, c.line, c.column); !strings.Contains(p.Detail, want) {
					t.Errorf("%q does not say %q", p.Detail, want)
				}
			}
			for _, kind := range []string{"text/plain", "application/x-ndjson", "application/jsonp", ""} {
				if got := s.ask("POST", "/m", c.body, "Content-Type", kind); got.body != "taken" {
					t.Errorf("as %q: %d %s", kind, got.StatusCode, got.body)
				}
			}
		})
	}
	if got := s.ask("GET", "/m", "", "Content-Type", "application/json"); got.body != "taken" {
		t.Errorf("GET without a body: %d %s", got.StatusCode, got.body)
	}
	if got := s.ask("POST", "/m", ` {"ü": [1e9, null]} `, "Content-Type", "application/json"); got.body != "taken" {
		t.Errorf("good JSON: %d %s", got.StatusCode, got.body)
	}
}

func TestRefusalsOfTheQueue(t *testing.T) {
	for _, c := range []struct {
		err    error
		status int
		code   serving.Code
		retry  bool
	}{
		{fmt.Errorf("backend %q: %w: 4096 queries wait, max_queued is 4096", "m", batch.ErrQueueFull), 503, serving.QueueFull, true},
		{fmt.Errorf("backend %q: %w", "m", batch.ErrDraining), 503, serving.Draining, true},
		{&batch.TooLargeError{}, 413, serving.TooLarge, false},
		{serving.Errorf(serving.InvalidArgument, "no such field"), 400, serving.InvalidArgument, false},
		{errors.New("odd"), 500, serving.Internal, false},
	} {
		s := serve(t, Options{}, newFake("m", func(*serving.Call) error { return c.err }))
		got := s.ask("GET", "/m", "", "X-Request-Id", "mine")
		p := s.problem(got, c.status, c.code)
		if p.Detail != c.err.Error() || p.Instance != "mine" || got.Header.Get("X-Request-Id") != "mine" {
			t.Errorf("%v: %+v", c.err, p)
		}
		if retry := got.Header.Get("Retry-After") != ""; retry != c.retry {
			t.Errorf("%v: Retry-After is %q", c.err, got.Header.Get("Retry-After"))
		}
	}
}

func TestErrorsOfTheModel(t *testing.T) {
	raised := &serving.ModelError{
		Backend: "m", Type: "ValueError", Message: "13 is bad luck", Traceback: "File \"m.py\", line 1", Status: 500,
	}
	for name, expose := range map[string]bool{"without traceback": false, "with traceback": true} {
		t.Run(name, func(t *testing.T) {
			b := failing("m", raised)
			b.config.ExposeTraceback = expose
			s := serve(t, Options{}, b)
			got := s.ask("GET", "/m", "", "X-Request-Id", "mine")
			p := s.problem(got, 500, "ValueError")
			if p.Detail != "13 is bad luck" || p.Backend != "m" || !p.IsModel() || (p.Traceback != "") != expose || got.Header.Get("Shoal-Backend") != "m" {
				t.Errorf("got %+v, %v", p, got.Header)
			}
			for _, want := range []string{"query failed", "13 is bad luck", "m.py", "mine"} {
				if !strings.Contains(s.log.String(), want) {
					t.Errorf("the log does not say %q: %s", want, s.log)
				}
			}
		})
	}
	for _, c := range []struct {
		err    error
		status int
		code   serving.Code
	}{
		{&serving.ModelError{Type: "Teapot", Status: 418, Header: http.Header{"X-Kind": {"1"}}}, 418, "Teapot"},
		{&serving.ModelError{Type: "Busy", Status: 503, Header: http.Header{"Retry-After": {"7"}, "X-Kind": {"1"}}}, 503, "Busy"},
		{&serving.ModelError{Type: "Odd", Status: 200, Header: http.Header{"X-Kind": {"1"}}}, 500, "Odd"},
		{&serving.ModelError{Type: "Zero", Header: http.Header{"X-Kind": {"1"}}}, 500, "Zero"},
		{&batch.CountError{}, 500, serving.WrongAnswerCount},
		{serving.Errorf(serving.WorkerDied, "the worker died"), 500, serving.WorkerDied},
	} {
		s := serve(t, Options{}, failing("m", c.err))
		got := s.ask("GET", "/m", "")
		s.problem(got, c.status, c.code)
		if _, model := c.err.(*serving.ModelError); model && got.Header.Get("X-Kind") != "1" {
			t.Errorf("%v: headers %v", c.err, got.Header)
		}
		if c.code == "Busy" && got.Header.Get("Retry-After") != "7" {
			t.Errorf("Retry-After %q", got.Header.Get("Retry-After"))
		}
	}
}

func TestAPanicFailsOneRequest(t *testing.T) {
	s := serve(t, Options{}, newFake("m", func(*serving.Call) error { panic("boom") }), answering("fine", text("fine")))
	got := s.ask("GET", "/m", "", "X-Request-Id", "mine")
	p := s.problem(got, 500, serving.Internal)
	if strings.Contains(p.Detail, "boom") || p.Instance != "mine" {
		t.Errorf("got %+v", p)
	}
	for _, want := range []string{"boom", "harness_test.go", "mine"} {
		if !strings.Contains(s.log.String(), want) {
			t.Errorf("the log does not say %q: %s", want, s.log)
		}
	}
	if got := s.ask("GET", "/fine", ""); got.body != "fine" {
		t.Errorf("after the panic: %q", got.body)
	}
}
