package admin

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/shoalserve/shoal/batch"
	"github.com/shoalserve/shoal/internal/front/problem"
	"github.com/shoalserve/shoal/internal/runtime/python"
	"github.com/shoalserve/shoal/internal/serving"
)

const spec = `"python":{"kind":"file","path":"a.py","object":"A"}`

func TestErrorsAreProblems(t *testing.T) {
	s := serve(t, Options{Deployer: fakes})
	s.deploy(t, newFake("m"))
	unknown := `sha256:` + strings.Repeat("0", 64)
	for name, c := range map[string]struct {
		method, path, body string
		status             int
		code               serving.Code
		detail             string
	}{
		"unknown path":                 {"GET", "/v1/nothing", "", 404, "InvalidArgument", "/v1/nothing"},
		"wrong method":                 {"POST", "/v1/status", "", 405, "InvalidArgument", "GET"},
		"backend that exists":          {"PUT", "/v1/backends/m", `{` + spec + `}`, 409, "AlreadyExists", "replace"},
		"empty body":                   {"PUT", "/v1/backends/n", ``, 400, "InvalidArgument", "empty"},
		"malformed JSON":               {"PUT", "/v1/backends/n", `{"python": nope}`, 400, "InvalidArgument", "byte 13"},
		"JSON that ends early":         {"PUT", "/v1/backends/n", `{"python": {`, 400, "InvalidArgument", "ends in the middle"},
		"JSON that goes on":            {"PUT", "/v1/backends/n", `{` + spec + `} {}`, 400, "InvalidArgument", "goes on"},
		"unknown field":                {"PUT", "/v1/backends/n", `{"pyhton":{}}`, 400, "InvalidArgument", `unknown field "pyhton"`},
		"unknown field within":         {"PUT", "/v1/backends/n", `{"python":{"kid":"file"}}`, 400, "InvalidArgument", `unknown field "kid"`},
		"wrong type":                   {"PUT", "/v1/backends/n", `{"python":{"kind":3}}`, 400, "InvalidArgument", "python.kind"},
		"unknown config key":           {"PUT", "/v1/backends/n", `{` + spec + `,"config":{"max_batchsize":3}}`, 400, "InvalidArgument", `did you mean "max_batch_size"`},
		"config out of range":          {"PUT", "/v1/backends/n", `{` + spec + `,"config":{"num_replicas":0}}`, 400, "InvalidArgument", "num_replicas"},
		"replace that is no bool":      {"PUT", "/v1/backends/n?replace=perhaps", `{` + spec + `}`, 400, "InvalidArgument", "replace"},
		"pickle without digest":        {"PUT", "/v1/backends/n", `{"python":{"kind":"pickle","path":"/x"}}`, 400, "InvalidArgument", "digest"},
		"digest with a path":           {"PUT", "/v1/backends/n", `{"python":{"kind":"pickle","path":"/x","digest":"` + unknown + `"}}`, 400, "InvalidArgument", "path"},
		"digest of a file":             {"PUT", "/v1/backends/n", `{"python":{"kind":"file","digest":"` + unknown + `"}}`, 400, "InvalidArgument", "pickle"},
		"unknown digest":               {"PUT", "/v1/backends/n", `{"python":{"kind":"pickle","digest":"` + unknown + `"}}`, 400, "InvalidArgument", "upload"},
		"no backend of that name":      {"GET", "/v1/backends/mm", "", 404, "BackendNotFound", "did you mean"},
		"config of no backend":         {"PATCH", "/v1/backends/x/config", "{}", 404, "BackendNotFound", "x"},
		"unknown key in a patch":       {"PATCH", "/v1/backends/m/config", `{"timeuot":"1s"}`, 400, "InvalidArgument", `"timeout"`},
		"backend in use":               {"DELETE", "/v1/backends/m", "", 409, "InUse", `"e"`},
		"endpoint of no backend":       {"PUT", "/v1/endpoints/f", `{"backend":"x"}`, 404, "BackendNotFound", "x"},
		"another endpoint of the name": {"PUT", "/v1/endpoints/e", `{"backend":"m","route":"/e"}`, 409, "AlreadyExists", "e"},
		"bad route":                    {"PUT", "/v1/endpoints/f", `{"backend":"m","route":"f"}`, 400, "InvalidArgument", "route"},
		"unknown endpoint field":       {"PUT", "/v1/endpoints/f", `{"backend":"m","rout":"/f"}`, 400, "InvalidArgument", `"rout"`},
		"no endpoint of that name":     {"GET", "/v1/endpoints/x", "", 404, "EndpointNotFound", "x"},
		"traffic of no endpoint":       {"PUT", "/v1/endpoints/x/traffic", `{"m":1}`, 404, "EndpointNotFound", "x"},
		"traffic that does not sum":    {"PUT", "/v1/endpoints/e/traffic", `{"m":0.5}`, 400, "InvalidArgument", "sum"},
		"shadow without proportion":    {"PUT", "/v1/endpoints/e/shadow", `{"backend":"m"}`, 400, "InvalidArgument", "proportion"},
		"shadow out of range":          {"PUT", "/v1/endpoints/e/shadow", `{"backend":"m","proportion":2}`, 400, "InvalidArgument", "proportion"},
		"query of no endpoint":         {"POST", "/v1/endpoints/x/query", `{}`, 404, "EndpointNotFound", "x"},
		"query with an unknown field":  {"POST", "/v1/endpoints/e/query", `{"args":{}}`, 400, "InvalidArgument", `"args"`},
		"query with a bad timeout":     {"POST", "/v1/endpoints/e/query", `{"timeout":"soon"}`, 400, "InvalidArgument", "soon"},
		"query with timeout below 0":   {"POST", "/v1/endpoints/e/query", `{"timeout":-1}`, 400, "InvalidArgument", "negative"},
		"query whose kwargs are none":  {"POST", "/v1/endpoints/e/query", `{"kwargs":[1]}`, 400, "InvalidArgument", "kwargs"},
		"query that takes too long":    {"POST", "/v1/endpoints/e/query", `{"timeout":"1ms"}`, 504, "DeadlineExceeded", "1ms"},
		"link without upgrade":         {"GET", "/v1/link", "", 426, "InvalidArgument", "shoal-link/3"},
		"logs that nobody keeps":       {"GET", "/v1/logs", "", 503, "Unavailable", "logs"},
		"logs with a bad tail":         {"GET", "/v1/logs?tail=-1", "", 400, "InvalidArgument", "tail"},
		"logs with a bad follow":       {"GET", "/v1/logs?follow=maybe", "", 400, "InvalidArgument", "follow"},
	} {
		t.Run(name, func(t *testing.T) {
			response := s.raw(t, c.method, c.path, c.body)
			var p problem.Problem
			if err := json.Unmarshal([]byte(text(t, response.Body)), &p); err != nil {
				t.Fatal(err)
			}
			if response.StatusCode != c.status || p.Status != c.status || p.Code != c.code || !strings.Contains(p.Detail, c.detail) {
				t.Errorf("got %s and %+v", response.Status, p)
			}
			if kind := response.Header.Get("Content-Type"); kind != problem.ContentType {
				t.Errorf("content type is %q", kind)
			}
			if c.status == 405 && response.Header.Get("Allow") == "" {
				t.Error("no Allow header")
			}
			if c.status == 503 && response.Header.Get("Retry-After") == "" {
				t.Error("no Retry-After header")
			}
			if !strings.HasPrefix(p.Type, "https://shoalserve.dev/problems/") || p.Title == "" {
				t.Errorf("type %q, title %q", p.Type, p.Title)
			}
		})
	}
}

func TestALoadErrorArrivesWithItsTraceback(t *testing.T) {
	failure := &serving.LoadError{Backend: "m", Type: "ImportError", Message: "no module named x", Traceback: "Traceback (most recent call last): …"}
	s := serve(t, Options{Deployer: deployFunc(func(context.Context, string, python.Spec, serving.Config) (serving.Backend, error) {
		return nil, failure
	})})
	running := newFake("m")
	s.deploy(t, running)
	_, err := s.client.Deploy(t.Context(), "m", fileSpec, true)
	got, ok := errors.AsType[*serving.LoadError](err)
	if !ok || *got != *failure {
		t.Errorf("got %v", err)
	}
	if b, err := s.registry.Backend("m"); err != nil || b != serving.Backend(running) {
		t.Errorf("the running version is gone: %v, %v", b, err)
	}
	response := s.raw(t, "PUT", "/v1/backends/m?replace=true", `{`+spec+`}`)
	if body := text(t, response.Body); response.StatusCode != 422 || !strings.Contains(body, `"traceback":"Traceback`) {
		t.Errorf("got %s %s", response.Status, body)
	}
}

func TestErrorsOfQueriesKeepTheirType(t *testing.T) {
	raised := &serving.ModelError{Backend: "m", Type: "ValueError", Message: "bad", Traceback: "Traceback…", Status: 418}
	for name, c := range map[string]struct{ failure, want error }{
		"model error": {raised, raised},
		"queue full":  {batch.ErrQueueFull, &serving.Error{Code: serving.QueueFull, Message: "queue is full"}},
		"wrong count": {&batch.CountError{Name: "m", Expected: 2, Got: 1}, &serving.Error{Code: serving.WrongAnswerCount, Message: `backend "m" returned 1 answers for a batch of 2`}},
		"anything":    {errors.New("boom"), &serving.Error{Code: serving.Internal, Message: "boom"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, Options{})
			b := newFake("m")
			b.respond = func(call *serving.Call) { call.Err = c.failure }
			s.deploy(t, b)
			_, err := s.client.Query(t.Context(), "e", QuerySpec{})
			if diff := cmp.Diff(c.want, err); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestCallsThatThisServerCannotServe(t *testing.T) {
	f := New(Options{Registry: serving.NewRegistry()})
	l, err := ListenUnix(socketPath(t))
	if err != nil {
		t.Fatal(err)
	}
	start(t, f, l)
	c := dial(t, "unix:"+l.Addr().String(), "")
	_, err = c.Upload(t.Context(), strings.NewReader("x"))
	wantCode(t, err, serving.Unavailable, "artifacts")
	_, err = c.Deploy(t.Context(), "m", fileSpec, false)
	wantCode(t, err, serving.Unavailable, "Python")
	pickle := BackendSpec{Spec: python.Spec{Source: python.Source{Kind: "pickle", Digest: "sha256:00"}}}
	_, err = c.Deploy(t.Context(), "m", pickle, false)
	wantCode(t, err, serving.Unavailable)
}

func TestABodyThatIsTooLarge(t *testing.T) {
	s := serve(t, Options{Deployer: fakes})
	response := s.raw(t, "PUT", "/v1/backends/m", strings.Repeat(" ", maxBody+1))
	if body := text(t, response.Body); response.StatusCode != 413 || !strings.Contains(body, "TooLarge") {
		t.Errorf("got %s %s", response.Status, body)
	}
}
