package rest

import (
	"encoding/json"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/shoalserve/shoal/internal/auth"
	"github.com/shoalserve/shoal/internal/serving"
)

func TestLivez(t *testing.T) {
	s := serve(t, Options{})
	for _, method := range []string{"GET", "HEAD"} {
		if got := s.ask(method, "/livez", ""); got.StatusCode != 200 {
			t.Errorf("%s: %d", method, got.StatusCode)
		}
	}
}

func TestReadyzSaysWhatIsMissing(t *testing.T) {
	var probes atomic.Int32
	b := newFake("m", func(c *serving.Call) error {
		if probes.Add(1) == 1 {
			return answer(c, serving.Response{}, &serving.ModelError{Backend: "m", Type: "E", Message: "no weights"})
		}
		return answer(c, text("x"), nil)
	})
	b.example = &serving.Example{Query: map[string]any{"n": 1}}
	b.become(serving.StateStarting)
	s := serve(t, Options{}, b)
	for _, missing := range []string{`backend "m" is starting`, "no weights"} {
		p := s.problem(s.ask("GET", "/readyz", ""), 503, serving.Unavailable)
		if !strings.Contains(p.Detail, missing) {
			t.Errorf("%q does not say %q", p.Detail, missing)
		}
		b.become(serving.StateReady)
	}
	for range 2 {
		if got := s.ask("GET", "/readyz", ""); got.StatusCode != 200 || got.body != "ready\n" {
			t.Errorf("got %d %q", got.StatusCode, got.body)
		}
	}
	if probes.Load() != 2 {
		t.Errorf("%d probes", probes.Load())
	}
}

func TestThoseWhoAskAtATimeShareAProbe(t *testing.T) {
	b := newFake("m", nil)
	b.example = &serving.Example{}
	s := serve(t, Options{}, b)
	const askers = 5
	answers := make(chan int, askers)
	ask := func() {
		got, err := s.try("GET", "/readyz", "")
		if err != nil {
			t.Error(err)
			answers <- 0
			return
		}
		answers <- got.StatusCode
	}
	go ask()
	c := next(t, "the probe", b.held)
	conn, _ := s.dial() // one who does not wait for the end
	s.write(conn, "GET /readyz HTTP/1.1\r\nHost: h\r\n\r\n")
	_ = conn.Close()
	for range askers - 1 {
		go ask()
	}
	b.respond(c, text("x"))
	for range askers {
		if status := next(t, "an answer", answers); status != 200 {
			t.Errorf("got %d", status)
		}
	}
	select {
	case <-b.held:
		t.Error("another probe was sent")
	default:
	}
}

func TestAProbeThatPanicsIsNotReady(t *testing.T) {
	b := newFake("m", func(*serving.Call) error { panic("boom") })
	b.example = &serving.Example{}
	s := serve(t, Options{}, b)
	for range 2 {
		if p := s.problem(s.ask("GET", "/readyz", ""), 503, serving.Unavailable); !strings.Contains(p.Detail, "boom") {
			t.Errorf("got %q", p.Detail)
		}
	}
}

func TestTheRoutesAreListed(t *testing.T) {
	s := serve(t, Options{}, answering("m", text("x")))
	got := s.ask("GET", "/-/routes", "")
	var routes map[string]serving.RouteInfo
	if err := json.Unmarshal([]byte(got.body), &routes); err != nil {
		t.Fatal(err)
	}
	if r := routes["/m"]; got.Header.Get("Content-Type") != "application/json" || len(routes) != 1 || r.Endpoint != "m" || len(r.Methods) != 2 {
		t.Errorf("got %v, %v", got.Header, routes)
	}
}

func TestMetricsCountByEndpointAndCode(t *testing.T) {
	s := serve(t, Options{}, answering("m", text("x")), failing("bad", &serving.ModelError{Status: 418}))
	for range 3 {
		s.ask("GET", "/m", "")
	}
	s.ask("GET", "/bad", "")
	s.ask("DELETE", "/m", "")
	for _, path := range []string{"/nowhere", "/m/x", "/a-path"} {
		s.ask("GET", path, "")
	}
	s.ask("GET", "/livez", "")
	got := s.ask("GET", "/metrics", "").body
	for _, want := range []string{
		`shoal_http_requests_total{code="200",endpoint="m"} 3`,
		`shoal_http_requests_total{code="405",endpoint="m"} 1`,
		`shoal_http_requests_total{code="418",endpoint="bad"} 1`,
		`shoal_http_requests_total{code="404",endpoint=""} 3`,
		`shoal_http_requests_total{code="200",endpoint=""} 1`,
		`shoal_http_request_duration_seconds_count{endpoint="m"} 4`,
	} {
		if !strings.Contains(got, want+"\n") {
			t.Errorf("no %s", want)
		}
	}
	if strings.Contains(got, "nowhere") || strings.Contains(got, "a-path") {
		t.Error("unknown paths make label values")
	}
}

func TestStrangersAreNotToldWhatIsNotReady(t *testing.T) {
	a, _ := guarded(t, map[string]auth.Grant{"alice": {Scopes: []auth.Scope{auth.Query}}})
	b := newFake("m", func(*serving.Call) error { panic("boom") })
	b.example = &serving.Example{}
	s := serve(t, Options{Auth: a}, b)
	if p := s.problem(s.ask("GET", "/readyz", ""), 503, serving.Unavailable); strings.Contains(p.Detail, "boom") || strings.Contains(p.Detail, `"m"`) {
		t.Errorf("got %q", p.Detail)
	}
}
