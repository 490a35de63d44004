package rest

import (
	"net/http"
	"strings"
	"testing"

	"github.com/shoalserve/shoal/internal/auth"
	"github.com/shoalserve/shoal/internal/serving"
)

// keys are API keys by the names of their owners.
type keys map[string]string

// guarded makes an Authenticator with a key for each grant.
func guarded(t *testing.T, grants map[string]auth.Grant) (*auth.Authenticator, keys) {
	t.Helper()
	config, secrets := auth.Config{Keys: map[string]auth.Key{}}, keys{}
	for name, grant := range grants {
		key, sha := auth.NewKey()
		config.Keys[name], secrets[name] = auth.Key{SHA256: sha, Grant: grant}, key
	}
	a, err := auth.New(config, auth.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Close)
	return a, secrets
}

func TestOnlyThoseWithAKeyAreLetIn(t *testing.T) {
	a, keys := guarded(t, map[string]auth.Grant{
		"alice": {Scopes: []auth.Scope{auth.Query}, Endpoints: []string{"open"}}, "bob": {Scopes: []auth.Scope{auth.Query}},
		"ci": {Scopes: []auth.Scope{auth.Deploy}}, "root": {Scopes: []auth.Scope{auth.Admin}}, "prometheus": {Scopes: []auth.Scope{auth.Metrics}},
	})
	keys["nobody"] = "made-up"
	s := serve(t, Options{Auth: a}, answering("open", text("yes")), answering("secret", text("yes")))
	const body = `{"a":1}`
	for _, c := range []struct {
		who, path string
		status    int
		code      serving.Code
	}{
		{"", "/open", 401, serving.Unauthorized}, {"", "/nowhere", 401, serving.Unauthorized}, {"", "/-/routes", 401, serving.Unauthorized},
		{"", "/openapi.json", 401, serving.Unauthorized}, {"ci", "/openapi.json", 403, serving.Forbidden}, {"prometheus", "/openapi.json", 403, serving.Forbidden},
		{"alice", "/openapi.json", 200, ""}, {"alice", "/-/routes", 200, ""}, {"nobody", "//metrics", 401, serving.Unauthorized}, {"", "/%6detrics", 401, serving.Unauthorized},
		{"alice", "/%73ecret", 403, serving.Forbidden}, {"alice", "//secret", 404, serving.EndpointNotFound}, {"alice", "/open/../secret", 404, serving.EndpointNotFound},
		{"alice", "/open%2f..%2fsecret", 404, serving.EndpointNotFound}, {"", "/livez/../metrics", 401, serving.Unauthorized},
		{"", "/metrics", 401, serving.Unauthorized}, {"nobody", "/open", 401, serving.Unauthorized},
		{"alice", "/open", 200, ""}, {"alice", "/secret", 403, serving.Forbidden}, {"alice", "/nowhere", 404, serving.EndpointNotFound},
		{"alice", "/metrics", 403, serving.Forbidden}, {"bob", "/open", 200, ""}, {"bob", "/secret", 200, ""},
		{"ci", "/open", 403, serving.Forbidden}, {"ci", "/-/routes", 403, serving.Forbidden},
		{"root", "/secret", 200, ""}, {"root", "/metrics", 200, ""}, {"prometheus", "/metrics", 200, ""}, {"prometheus", "/open", 403, serving.Forbidden},
		{"", "/livez", 200, ""}, {"", "/readyz", 200, ""}, {"nobody", "/livez", 200, ""},
	} {
		method, sent := "GET", ""
		var header []string
		if c.who != "" {
			header = append(header, "Authorization", "Bearer "+keys[c.who])
		}
		for range 2 {
			got := s.ask(method, c.path, sent, header...)
			if c.code == "" && got.StatusCode != c.status {
				t.Errorf("%s asks %s: %d, %s", c.who, c.path, got.StatusCode, got.body)
			} else if c.code != "" {
				s.problem(got, c.status, c.code)
			}
			if challenge := got.Header.Get("WWW-Authenticate"); (challenge != "") != (c.status == 401 || c.status == 403) {
				t.Errorf("%s asks %s: WWW-Authenticate is %q", c.who, c.path, challenge)
			}
			if strings.HasPrefix(c.path, "/-") || c.path == "/openapi.json" || c.path == "/livez" || c.path == "/readyz" || c.path == "/metrics" {
				break
			}
			method, sent = "POST", body
		}
	}
	metrics := s.ask("GET", "/metrics", "", "Authorization", "Bearer "+keys["prometheus"]).body
	for _, want := range []string{`{front="http",reason="missing"}`, `{front="http",reason="invalid"}`, `{front="http",reason="scope"}`, `{front="http",reason="endpoint"}`} {
		if !strings.Contains(metrics, "shoal_requests_denied_total"+want) {
			t.Errorf("the metrics lack %s", want)
		}
	}
}

func TestRoutesAreThoseThatTheCallerReaches(t *testing.T) {
	a, keys := guarded(t, map[string]auth.Grant{"alice": {Scopes: []auth.Scope{auth.Query}, Endpoints: []string{"open"}}})
	s := serve(t, Options{Auth: a}, answering("open", text("yes")), answering("secret", text("yes")))
	got := s.ask("GET", "/-/routes", "", "Authorization", "Bearer "+keys["alice"])
	if !strings.Contains(got.body, "/open") || strings.Contains(got.body, "secret") {
		t.Errorf("got %s", got.body)
	}
}

// A credential goes no further than the front: the model is told a name.
func TestTheModelSeesTheCallersNameAndNoCredential(t *testing.T) {
	a, keys := guarded(t, map[string]auth.Grant{"alice": {Scopes: []auth.Scope{auth.Query}}})
	seen := make(chan http.Header, 1)
	backend := newFake("m", func(c *serving.Call) error {
		seen <- c.Request.Headers()
		if c.Caller != "alice" {
			t.Errorf("the caller is %q", c.Caller)
		}
		return answer(c, text("yes"), nil)
	})
	s := serve(t, Options{Auth: a}, backend)
	for _, method := range []string{"GET", "POST"} {
		s.ask(method, "/m", "", "Authorization", "bearer "+keys["alice"], "Shoal-Caller", "root", "X-Other", "kept")
		h := next(t, "a query", seen)
		if got := h.Values("Shoal-Caller"); len(got) != 1 || got[0] != "alice" || h.Get("X-Other") != "kept" || h.Get("Authorization") != "" {
			t.Errorf("the model sees %v", h)
		}
	}
	if strings.Contains(s.log.String(), keys["alice"]) {
		t.Errorf("the key is in the log: %s", s.log)
	}
	open := serve(t, Options{}, newFake("m", func(c *serving.Call) error {
		seen <- c.Request.Headers()
		return answer(c, text("yes"), nil)
	}))
	open.ask("GET", "/m", "", "Authorization", "Basic x")
	if h := next(t, "a query", seen); h.Get("Authorization") != "Basic x" {
		t.Errorf("without auth the header is the model's: %v", h)
	}
}

// Whoever is not let in is told so before he has sent his body.
func TestADenialDoesNotWaitForTheBody(t *testing.T) {
	a, keys := guarded(t, map[string]auth.Grant{"alice": {Scopes: []auth.Scope{auth.Query}}})
	s := serve(t, Options{Auth: a}, answering("m", text("yes")))
	for _, authorization := range []string{"", "Authorization: Bearer x\r\n", "Authorization: Bearer " + keys["alice"] + "\r\nAuthorization: Bearer " + keys["alice"] + "\r\n"} {
		conn, from := s.dial()
		s.write(conn, "POST /m HTTP/1.1\r\nHost: x\r\nContent-Length: 5000000\r\n"+authorization+"\r\n")
		s.problem(s.read(from), 401, serving.Unauthorized)
	}
}

func TestAKeyThatIsTakenAwayIsRefusedOnAnOpenConnection(t *testing.T) {
	a, keys := guarded(t, map[string]auth.Grant{"alice": {Scopes: []auth.Scope{auth.Query}}, "bob": {Scopes: []auth.Scope{auth.Query}}})
	s := serve(t, Options{Auth: a}, answering("m", text("yes")))
	conn, from := s.dial()
	request := "GET /m HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + keys["alice"] + "\r\n\r\n"
	s.write(conn, request)
	if got := s.read(from); got.StatusCode != 200 {
		t.Fatalf("got %d", got.StatusCode)
	}
	_, sha := auth.NewKey()
	if err := a.Reload(auth.Config{Keys: map[string]auth.Key{"bob": {SHA256: sha, Grant: auth.Grant{Scopes: []auth.Scope{auth.Query}}}}}); err != nil {
		t.Fatal(err)
	}
	s.write(conn, request)
	s.problem(s.read(from), 401, serving.Unauthorized)
}
