package admin

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/time/rate"

	"github.com/shoalserve/shoal/internal/auth"
	"github.com/shoalserve/shoal/internal/runtime/python"
	"github.com/shoalserve/shoal/internal/serving"
	"github.com/shoalserve/shoal/internal/wire"
)

// guardedServer is a server on TCP with a key for each grant, and the keys.
type guardedServer struct {
	*server
	auth    *auth.Authenticator
	address string
	keys    map[string]string
	audit   *syncBuffer
}

func guarded(t *testing.T, opts Options, grants map[string]auth.Grant) *guardedServer {
	t.Helper()
	config := auth.Config{Keys: map[string]auth.Key{}}
	g := &guardedServer{keys: map[string]string{"nobody": "made-up-by-a-stranger", "": ""}, audit: &syncBuffer{}}
	for name, grant := range grants {
		key, sha := auth.NewKey()
		config.Keys[name], g.keys[name] = auth.Key{SHA256: sha, Grant: grant}, key
	}
	var err error
	if g.auth, err = auth.New(config, auth.Options{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.auth.Close)
	opts.Auth, opts.Audit = g.auth, slog.New(slog.NewJSONHandler(g.audit, nil))
	if opts.Deployer == nil {
		opts.Deployer = fakes
	}
	g.server = serve(t, opts)
	l, err := Listen("http://127.0.0.1:0", true, nil)
	if err != nil {
		t.Fatal(err)
	}
	start(t, g.Front, l)
	g.address = l.Addr().String()
	return g
}

// call makes a call with somebody's key and returns its status.
func (g *guardedServer) call(t *testing.T, who, method, path, body string) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, "http://"+g.address+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if key := g.keys[who]; key != "" {
		r.Header.Set("Authorization", "Bearer "+key)
	}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	raw, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	if (response.StatusCode == 401 || response.StatusCode == 403) != (response.Header.Get("WWW-Authenticate") != "") {
		t.Errorf("%s %s by %s: %d with WWW-Authenticate %q", method, path, who, response.StatusCode, response.Header.Get("WWW-Authenticate"))
	}
	return response.StatusCode, string(raw)
}

// everyone has one key for each scope, and one that is for an endpoint alone.
var everyone = map[string]auth.Grant{
	"query": {Scopes: []auth.Scope{auth.Query}}, "deploy": {Scopes: []auth.Scope{auth.Deploy}}, "admin": {Scopes: []auth.Scope{auth.Admin}},
	"metrics": {Scopes: []auth.Scope{auth.Metrics}}, "guest": {Scopes: []auth.Scope{auth.Query}, Endpoints: []string{"e"}},
}

// What each call wants is written down twice, here and in New, since a call that
// wants too little shows nowhere else.
func TestEachCallWantsItsScope(t *testing.T) {
	const spec = `{"python":{"kind":"file","path":"a.py","object":"A"}}`
	calls := []struct {
		method, path, body string
		may                []string
	}{
		{"POST", "/v1/endpoints/e/verify", `{"items":[]}`, []string{"deploy", "admin"}},
		{"GET", "/v1/status", "", []string{"query", "guest", "deploy", "admin"}},
		{"POST", "/v1/artifacts", "pickle", []string{"deploy", "admin"}},
		{"PUT", "/v1/backends/m?replace=true", spec, []string{"deploy", "admin"}},
		{"GET", "/v1/backends", "", []string{"deploy", "admin"}},
		{"GET", "/v1/backends/m", "", []string{"deploy", "admin"}},
		{"PATCH", "/v1/backends/m/config", "{}", []string{"deploy", "admin"}},
		{"PUT", "/v1/endpoints/f", `{"backend":"m"}`, []string{"deploy", "admin"}},
		{"GET", "/v1/endpoints", "", []string{"query", "guest", "deploy", "admin"}},
		{"GET", "/v1/endpoints/e", "", []string{"query", "guest", "deploy", "admin"}},
		{"GET", "/v1/endpoints/f", "", []string{"query", "deploy", "admin"}},
		{"PUT", "/v1/endpoints/f/traffic", `{"m":1}`, []string{"deploy", "admin"}},
		{"PUT", "/v1/endpoints/f/shadow", `{"backend":"m","proportion":0}`, []string{"deploy", "admin"}},
		{"PUT", "/v1/endpoints/f/canary", `{"backend":"m"}`, []string{"deploy", "admin"}},
		{"DELETE", "/v1/endpoints/f/canary", "", []string{"deploy", "admin"}},
		{"POST", "/v1/endpoints/f/canary/promote", "", []string{"deploy", "admin"}},
		{"POST", "/v1/endpoints/e/query", `{"data":1}`, []string{"query", "guest", "admin"}},
		{"POST", "/v1/endpoints/f/query", `{"data":1}`, []string{"query", "admin"}},
		{"GET", "/v1/logs", "", []string{"admin"}},
		{"GET", "/v1/link", "", []string{"query", "guest", "admin"}},
		{"POST", "/v1/reload", "", []string{"admin"}},
		{"DELETE", "/v1/endpoints/f", "", []string{"deploy", "admin"}},
		{"DELETE", "/v1/backends/n", "", []string{"deploy", "admin"}},
	}
	reasons := make(chan string, 1000)
	s := guarded(t, Options{Denied: func(reason string) { reasons <- reason }, Logs: newFakeLogs()}, everyone)
	b := newFake("m")
	b.respond = echo
	s.deploy(t, b)
	if _, err := s.registry.CreateEndpoint("f", serving.EndpointSpec{Backend: "m"}); err != nil {
		t.Fatal(err)
	}
	untried := maps.Clone(s.calls)
	denials := 0
	for _, c := range calls {
		r, err := http.NewRequestWithContext(t.Context(), c.method, "http://h"+c.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		_, pattern := s.mux.Handler(r)
		delete(untried, pattern)
		for _, who := range append(slices.Sorted(maps.Keys(everyone)), "nobody", "") {
			status, said := s.call(t, who, c.method, c.path, c.body)
			denied := status == 401 || status == 403
			if denied {
				denials++
			}
			if want := !slices.Contains(c.may, who); denied != want || (status == 401) != (who == "" || who == "nobody") {
				t.Errorf("%s %s by %q gives %d, %s", c.method, c.path, who, status, said)
			}
		}
	}
	if len(reasons) != denials {
		t.Errorf("%d denials, %d were counted", denials, len(reasons))
	}
	for pattern := range untried {
		t.Errorf("%s is not tried here: add who may call it", pattern)
	}
	for pattern, c := range s.calls {
		if reads := strings.HasPrefix(pattern, "GET ") || slices.Contains([]string{"POST /v1/endpoints/{name}/query", "POST /v1/endpoints/{name}/verify"}, pattern); reads != (c.change == "") || len(c.scopes) == 0 {
			t.Errorf("%s changes %q and wants %v: what changes something is named in the audit log, and somebody must be told who may", pattern, c.change, c.scopes)
		}
	}
}

func TestTwoCredentialsAreNone(t *testing.T) {
	for _, opts := range []Options{{}, {Token: "the-token-of-this-server"}} {
		s := guarded(t, opts, everyone)
		for _, second := range []string{"Bearer " + s.keys["query"], "Bearer the-token-of-this-server", ""} {
			r, err := http.NewRequestWithContext(t.Context(), "GET", "http://"+s.address+"/v1/status", nil)
			if err != nil {
				t.Fatal(err)
			}
			r.Header["Authorization"] = []string{"Bearer " + s.keys["admin"], second}
			for range 2 {
				response, err := http.DefaultClient.Do(r)
				if err != nil {
					t.Fatal(err)
				}
				if _ = response.Body.Close(); response.StatusCode != 401 {
					t.Errorf("with %q second: %d", second, response.StatusCode)
				}
				slices.Reverse(r.Header["Authorization"])
			}
		}
	}
}

// What a stranger or a fault makes of a call that changes something is in the audit
// log, too; but strangers do not fill the disk.
func TestTheAuditLogHasStrangersAndPanics(t *testing.T) {
	log := &syncBuffer{}
	s := guarded(t, Options{Logger: slog.New(slog.NewJSONHandler(log, nil)), Deployer: deployFunc(func(context.Context, string, python.Spec, serving.Config) (serving.Backend, error) {
		panic("as a test wants it")
	})}, everyone)
	s.strangers.limit.SetLimit(0)
	s.strangers.limit.SetBurst(2)
	for _, who := range []string{"nobody", "", "nobody", ""} {
		if status, _ := s.call(t, who, "DELETE", "/v1/endpoints/e", ""); status != 401 {
			t.Errorf("by %q: %d", who, status)
		}
		s.call(t, who, "GET", "/v1/status", "")
	}
	if got := strings.Count(s.audit.String(), `"by":"nobody","from":"127.0.0.1:`); got != 2 || s.strangers.dropped != 2 {
		t.Errorf("%d lines of strangers, %d suppressed: %s", got, s.strangers.dropped, s.audit)
	}
	r, err := http.NewRequestWithContext(t.Context(), "PUT", "http://"+s.address+"/v1/backends/m", strings.NewReader(`{"python":{"kind":"file","path":"a.py","object":"A"}}`))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+s.keys["deploy"])
	if response, err := http.DefaultClient.Do(r); err == nil {
		_ = response.Body.Close()
		t.Errorf("a panic is answered %d", response.StatusCode)
	}
	if !strings.Contains(s.audit.String(), `"change":"deploy backend","who":"deploy"`) || !strings.Contains(s.audit.String(), "as a test wants it") {
		t.Errorf("the panic is not in %s", s.audit)
	}
}

// Whoever may only ask does not fill the disk either.
func TestACallersDenialsAreFewLines(t *testing.T) {
	s := guarded(t, Options{}, everyone)
	s.denied.allow("key:query")
	s.denied.of["key:query"].limit.SetLimit(0)
	s.denied.of["key:query"].limit.SetBurst(0)
	for range 3 {
		s.call(t, "query", "DELETE", "/v1/endpoints/e", "")
	}
	s.call(t, "guest", "DELETE", "/v1/endpoints/e", "") // has lines of his own
	if said := s.audit.String(); strings.Contains(said, `"who":"query"`) || !strings.Contains(said, `"who":"guest"`) {
		t.Errorf("the audit log is %s", said)
	}
	s.denied.of["key:query"].limit.SetLimit(rate.Inf)
	s.call(t, "query", "DELETE", "/v1/endpoints/e", "")
	if said := s.audit.String(); !strings.Contains(said, `"suppressed":`) {
		t.Errorf("nothing says how many there were: %s", said)
	}
	for n := range 3 * maxDenied {
		s.denied.allow(strconv.Itoa(n))
	}
	if n := len(s.denied.of); n > maxDenied {
		t.Errorf("%d callers are remembered", n)
	}
}

// What stays open does not outlive the credential that it was opened with.
func TestWhatIsOpenEndsWithItsCredential(t *testing.T) {
	s := guarded(t, Options{Logs: newFakeLogs()}, everyone)
	s.deploy(t, newFake("m"))
	l := s.linkOf(t, "query")
	r, err := http.NewRequestWithContext(t.Context(), "GET", "http://"+s.address+"/v1/logs?follow=true", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+s.keys["admin"])
	followed, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer followed.Body.Close()
	kept := s.linkOf(t, "guest")
	config := auth.Config{Keys: map[string]auth.Key{}}
	sum := sha256.Sum256([]byte(s.keys["guest"]))
	config.Keys["guest"] = auth.Key{SHA256: hex.EncodeToString(sum[:]), Grant: everyone["guest"]}
	if err := s.auth.Reload(config); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, followed.Body); err != nil {
		t.Errorf("the log ends with %v", err)
	}
	if kind, body, err := wire.Read(l.in); err != nil || kind != wire.Goodbye || !strings.Contains(string(body), "credential") {
		t.Errorf("the link ends with kind %d, %s, %v", kind, body, err)
	}
	l.wantEnd(t)
	kept.send(t, ask(nil, 1, 0, "nowhere", "", "", `{"encoding":"json"}`, "x"))
	kept.wantRefusal(t, 1, serving.Forbidden)
}

// A token that was changed ends what it opened, as a key does.
func TestAnotherTokenEndsWhatTheOldOneOpened(t *testing.T) {
	s := guarded(t, Options{Token: "the-first-token-of-all"}, everyone)
	s.keys["first"], s.keys["second"] = "the-first-token-of-all", "the-second-token-of-all"
	l := s.linkOf(t, "first")
	s.SetToken("the-second-token-of-all")
	if kind, body, err := wire.Read(l.in); err != nil || kind != wire.Goodbye || !strings.Contains(string(body), "credential") {
		t.Errorf("the link ends with kind %d, %s, %v", kind, body, err)
	}
	l.wantEnd(t)
	for who, want := range map[string]int{"first": 401, "second": 200} {
		if status, said := s.call(t, who, "GET", "/v1/status", ""); status != want {
			t.Errorf("the %s token: %d %s", who, status, said)
		}
	}
}

func TestWhoMayOnlyAskSeesOnlyWhatHeMayAsk(t *testing.T) {
	s := guarded(t, Options{}, everyone)
	s.deploy(t, newFake("m"))
	if _, err := s.registry.CreateEndpoint("hidden", serving.EndpointSpec{Backend: "m"}); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/v1/status", "/v1/endpoints"} {
		for who, sees := range map[string][]string{"guest": {`"name":"e"`}, "query": {`"name":"e"`, `"name":"hidden"`}, "admin": {`"name":"e"`, `"name":"hidden"`}} {
			_, said := s.call(t, who, "GET", path, "")
			for _, name := range []string{`"name":"e"`, `"name":"hidden"`} {
				if strings.Contains(said, name) != slices.Contains(sees, name) {
					t.Errorf("%s of %s shows %s", path, who, said)
				}
			}
			if strings.Contains(said, `"name":"m"`) != (who == "admin" && path == "/v1/status") {
				t.Errorf("%s of %s shows %s", path, who, said)
			}
		}
	}
}

func TestEachChangeIsInTheAuditLog(t *testing.T) {
	s := guarded(t, Options{}, everyone)
	s.deploy(t, newFake("m"))
	s.call(t, "deploy", "PATCH", "/v1/backends/m/config", `{"max_batch_size":4,"env":{"TOKEN":"canary"}}`)
	s.call(t, "query", "DELETE", "/v1/endpoints/e", "")
	s.call(t, "admin", "DELETE", "/v1/backends/m", "")
	s.call(t, "admin", "GET", "/v1/status", "")
	if response := s.raw(t, "DELETE", "/v1/endpoints/e", ""); response.StatusCode != 204 {
		t.Errorf("by socket: %d", response.StatusCode)
	}
	var lines []map[string]any
	for raw := range bytes.Lines([]byte(s.audit.String())) {
		var line map[string]any
		if err := json.Unmarshal(raw, &line); err != nil {
			t.Fatal(err)
		}
		lines = append(lines, line)
	}
	want := []map[string]any{
		{"change": "update backend", "who": "deploy", "by": "key", "name": "m", "result": "done"},
		{"change": "delete endpoint", "who": "query", "by": "key", "name": "e", "result": "failed", "code": "Forbidden"},
		{"change": "delete backend", "who": "admin", "by": "key", "name": "m", "result": "failed", "code": "InUse"},
		{"change": "delete endpoint", "by": "socket", "name": "e", "result": "done"},
	}
	if len(lines) != len(want) {
		t.Fatalf("the audit log is %s", s.audit)
	}
	for i, w := range want {
		for key, value := range w {
			if lines[i][key] != value {
				t.Errorf("line %d has %s %v, want %v", i, key, lines[i][key], value)
			}
		}
		if lines[i]["time"] == nil || lines[i]["from"] == nil {
			t.Errorf("line %d is %v", i, lines[i])
		}
	}
	if keys, _ := json.Marshal(lines[0]["keys"]); string(keys) != `["env","max_batch_size"]` || strings.Contains(s.audit.String(), "canary") {
		t.Errorf("the log tells values of an environment, or no keys: %s", s.audit)
	}
}

func (g *guardedServer) linkOf(t *testing.T, who string) *linkClient {
	t.Helper()
	return openLink(t, "tcp", g.address, "Authorization: Bearer "+g.keys[who]+"\r\n", "")
}

func TestALinkReachesOnlyTheCallersEndpoints(t *testing.T) {
	s := guarded(t, Options{}, everyone)
	b := newFake("m")
	b.respond = echo
	s.deploy(t, b)
	if _, err := s.registry.CreateEndpoint("hidden", serving.EndpointSpec{Backend: "m"}); err != nil {
		t.Fatal(err)
	}
	l := s.linkOf(t, "guest")
	plain := `{"encoding":"json"}`
	l.send(t, ask(nil, 1, 0, "hidden", "", "", plain, "x"), ask(nil, 2, 0, "e", "", "", plain, "x"), ask(nil, 3, 0, "nowhere", "", "", plain, "x"))
	l.wantRefusal(t, 1, serving.Forbidden)
	if ref, _, payload := l.answer(t); ref != 2 || payload != "x" {
		t.Errorf("answer %d is %q", ref, payload)
	}
	l.wantRefusal(t, 3, serving.Forbidden)
}

func TestALinkEndsWithItsCredential(t *testing.T) {
	s := guarded(t, Options{}, everyone)
	b := newFake("m")
	b.respond = echo
	s.deploy(t, b)
	l := s.linkOf(t, "admin")
	l.query(t, 1, "before")
	if _, _, payload := l.answer(t); payload != "before" {
		t.Errorf("got %q", payload)
	}
	_, sha := auth.NewKey()
	if err := s.auth.Reload(auth.Config{Keys: map[string]auth.Key{"admin": {SHA256: sha, Grant: everyone["admin"]}}}); err != nil {
		t.Fatal(err)
	}
	l.query(t, 2, "after")
	l.wantRefusal(t, 2, serving.Unauthorized)
}

// A pickle is code: who may only ask may not bring any.
func TestPickledQueriesNeedTheScopeToDeploy(t *testing.T) {
	for who, c := range map[string]struct {
		noPickle, may bool
	}{"query": {false, false}, "admin": {false, true}, "both": {false, true}, "admin, switched off": {true, false}} {
		t.Run(who, func(t *testing.T) {
			grants := maps.Clone(everyone)
			grants["both"] = auth.Grant{Scopes: []auth.Scope{auth.Query, auth.Deploy}}
			s := guarded(t, Options{NoPickle: c.noPickle}, grants)
			b := newFake("m")
			b.respond = echo
			s.deploy(t, b)
			name, _, _ := strings.Cut(who, ",")
			l := s.linkOf(t, name)
			unreadable := []string{`{"encoding":"json"`, `[]`, "{\"encoding\":\"json\"}\x00", `{"encoding":["json"]}`}
			for i, head := range append([]string{"", "{}", `{"encoding":"pickle"}`, `{"encoding":"JSON"}`, `{"method":"POST"}`,
				`{"encoding":"pickle","Encoding":"json"}`, `{"encoding":"json","encoding":"pickle"}`}, unreadable...) {
				l.send(t, ask(nil, uint64(i), 0, "e", "", "", head, "x"))
				switch {
				case !c.may:
					l.wantRefusal(t, uint64(i), serving.Forbidden)
				case slices.Contains(unreadable, head):
					l.wantRefusal(t, uint64(i), serving.InvalidArgument)
				default:
					if _, _, payload := l.answer(t); payload != "x" {
						t.Errorf("head %s was answered %q", head, payload)
					}
				}
			}
			heads := make(chan string, 1)
			b.mu.Lock()
			b.respond = func(c *serving.Call) {
				heads <- string(c.Args.Head)
				if c.Caller != name {
					t.Errorf("the caller is %q, want %q", c.Caller, name)
				}
				echo(c)
			}
			b.mu.Unlock()
			l.send(t, ask(nil, 99, 0, "e", "", "", `{"encoding":"pickle", "encoding":"json","method":"POST"}`, "x"))
			if _, _, payload := l.answer(t); payload != "x" {
				t.Errorf("a plain query was answered %q", payload)
			}
			if head := next(t, heads); !c.may && head != `{"encoding":"json","method":"POST","headers":{"Shoal-Caller":"`+name+`"}}` {
				t.Errorf("the model's side reads the head %s", head)
			}
		})
	}
}

// Whoever may only ask learns of a model's error what he would over HTTP: no lines of
// its code, unless its config shows them, and nothing that is to be unpickled.
func TestWhoMayOnlyAskSeesNoTracebackAndNoPickle(t *testing.T) {
	for name, c := range map[string]struct {
		who               string
		expose, noPickle  bool
		traceback, pickle bool
	}{
		"query": {who: "query"}, "query, exposed": {who: "query", expose: true, traceback: true},
		"admin": {who: "admin", traceback: true, pickle: true}, "admin without pickles": {who: "admin", noPickle: true, traceback: true},
	} {
		t.Run(name, func(t *testing.T) {
			log := &syncBuffer{}
			s := guarded(t, Options{NoPickle: c.noPickle, Logger: slog.New(slog.NewJSONHandler(log, nil))}, everyone)
			b := newFake("m")
			b.config.ExposeTraceback = c.expose
			b.respond = func(call *serving.Call) {
				call.Err = &serving.ModelError{Backend: "m", Type: "ValueError", Message: "bad", Traceback: "line 1 of secret.py", Pickle: []byte("PICKLED"), Status: 500}
			}
			s.deploy(t, b)
			l := s.linkOf(t, c.who)
			l.send(t, ask(nil, 1, 0, "e", "", "", `{"encoding":"json"}`, "x"))
			_, code, payload := l.answer(t)
			if code != wire.ErrorCode || !strings.Contains(payload, `"ValueError"`) || strings.Contains(payload, "secret.py") != c.traceback || strings.Contains(payload, "PICKLED") != c.pickle {
				t.Errorf("by link: code %d, %s", code, payload)
			}
			status, said := s.call(t, c.who, "POST", "/v1/endpoints/e/query", `{"data":1}`)
			if status != 500 || !strings.Contains(said, "ValueError") || strings.Contains(said, "secret.py") != c.traceback {
				t.Errorf("by POST: %d %s", status, said)
			}
			if strings.Contains(log.String(), "secret.py") == c.traceback {
				t.Errorf("the log is %s", log)
			}
			b.mu.Lock()
			b.respond = func(call *serving.Call) {
				call.Response = serving.Response{Format: serving.Pickle, Body: []byte("PICKLED")}
			}
			b.mu.Unlock()
			l.send(t, ask(nil, 2, 0, "e", "", "", `{"encoding":"json"}`, "x"))
			if _, code, payload := l.answer(t); strings.Contains(payload, "PICKLED") != c.pickle || (code == wire.ErrorCode) == c.pickle {
				t.Errorf("a pickled answer: code %d, %s", code, payload)
			}
		})
	}
}

func TestAQueryThatIsNestedTooDeeplyIsRefused(t *testing.T) {
	s := guarded(t, Options{}, everyone)
	b := newFake("m")
	b.respond = echo
	s.deploy(t, b)
	deep := func(n int) string {
		return `{"data":` + strings.Repeat("[", n) + strings.Repeat("]", n) + `,"kwargs":{}}`
	}
	l := s.linkOf(t, "query")
	l.send(t, ask(nil, 1, 0, "e", "", "", `{"encoding":"json"}`, deep(600)), ask(nil, 2, 0, "e", "", "", `{"encoding":"json"}`, deep(400)))
	l.wantRefusal(t, 1, serving.InvalidArgument)
	if ref, _, payload := l.answer(t); ref != 2 || payload != deep(400) {
		t.Errorf("answer %d is %.100s", ref, payload)
	}
	if status, said := s.call(t, "query", "POST", "/v1/endpoints/e/query", deep(600)); status != 400 || !strings.Contains(said, "nested too deeply") {
		t.Errorf("by POST: %d %s", status, said)
	}
}

// What the model's side could read in another way, or not at all, does not reach it,
// nor does a name that the client made up.
func TestTheModelsSideGetsAHeadWrittenAnew(t *testing.T) {
	grants := maps.Clone(everyone)
	grants["both"] = auth.Grant{Scopes: []auth.Scope{auth.Query, auth.Deploy}}
	s := guarded(t, Options{}, grants)
	heads := make(chan string, 1)
	b := newFake("m")
	b.respond = func(c *serving.Call) {
		heads <- string(c.Args.Head)
		echo(c)
	}
	s.deploy(t, b)
	deep := strings.Repeat("[", 2000) + strings.Repeat("]", 2000)
	for _, c := range []struct{ who, given, want string }{
		{"query", `{"encoding":"json"}`, `{"encoding":"json","headers":{"Shoal-Caller":"query"}}`},
		{"query", "{\"encoding\":\"json\",\"x\":\"\xff\"}", `{"encoding":"json","headers":{"Shoal-Caller":"query"}}`},
		{"query", "{\"encoding\":\"json\",\"method\":\"\xff\"}", `{"encoding":"json","method":"\ufffd","headers":{"Shoal-Caller":"query"}}`},
		{"query", `{"encoding":"json","x":` + deep + `}`, `{"encoding":"json","headers":{"Shoal-Caller":"query"}}`},
		{"query", `{"encoding":"json","buffers":[1],"x":` + strings.Repeat("9", 5000) + `}`, `{"encoding":"json","headers":{"Shoal-Caller":"query"}}`},
		{"query", `{"encoding":"json","method":` + deep + `}`, ""},
		{"query", `{"encoding":"json","headers":{"A":1}}`, ""},
		{"query", `{"encoding":"json","headers":{"Shoal-Caller":"admin","shoal-caller":"admin","AUTHORIZATION":"x","A":"b"}}`,
			`{"encoding":"json","headers":{"A":"b","Shoal-Caller":"query"}}`},
		{"both", `{"encoding":"json","headers":{"shoal-CALLER":"admin"}}`, `{"encoding":"json","headers":{"Shoal-Caller":"both"}}`},
		{"both", `{"buffers":[7],"headers":{"Shoal-Caller":"admin"}}`, `{"headers":{"Shoal-Caller":"both"},"buffers":[7]}`},
		{"both", "", `{"headers":{"Shoal-Caller":"both"}}`},
		{"both", `{"x":NaN,"headers":{"Shoal-Caller":"admin"}}`, ""},
	} {
		l := s.linkOf(t, c.who)
		for ref := range uint64(2) { // the second one is remembered
			l.send(t, ask(nil, ref, 0, "e", "", "", c.given, "x"))
			if c.want == "" {
				l.wantRefusal(t, ref, serving.InvalidArgument)
				continue
			}
			if _, _, payload := l.answer(t); payload != "x" {
				t.Fatalf("head %.99s was answered %q", c.given, payload)
			}
			// A letter may be escaped.
			if got := strings.ReplaceAll(next(t, heads), "\ufffd", `\ufffd`); got != c.want {
				t.Errorf("head %.99s by %s becomes %s, want %s", c.given, c.who, got, c.want)
			}
		}
	}
}

func TestPicklesCanBeSwitchedOff(t *testing.T) {
	s := serve(t, Options{Deployer: fakes, NoPickle: true})
	_, err := s.client.Upload(t.Context(), strings.NewReader("pickle"))
	wantCode(t, err, serving.Forbidden, "allow_pickle", "from a file")
	pickled := fileSpec
	pickled.Source.Kind, pickled.Source.Path, pickled.Source.Digest = "pickle", "", "sha256:"+strings.Repeat("0", 64)
	_, err = s.client.Deploy(t.Context(), "m", pickled, false)
	wantCode(t, err, serving.Forbidden, "allow_pickle")
	if _, err = s.client.Deploy(t.Context(), "m", fileSpec, false); err != nil {
		t.Errorf("from a file: %v", err)
	}
}
