package server

import (
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/shoalserve/shoal/internal/front/admin"
	"github.com/shoalserve/shoal/internal/serving"
)

func TestAConfigFileIsServed(t *testing.T) {
	r := start(t)
	_, err := r.Apply(t.Context(), parse(t, `
backends:
  adder:v1: {python: models.py:adder, config: {max_batch_size: 4}}
  scaler: {python: {file: models.py, object: Scaler, init_args: [3], init_kwargs: {offset: 1}}}
endpoints:
  adder: {route: /adder, traffic: {adder:v1: 1}, shadow: {scaler: 0.5}, example: {query: {number: 1}}}
  scaler: {route: /scale, methods: [GET, POST], backend: scaler}
`), false)
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{"/adder?number=41": "42", "/scale?number=2": "7"} {
		if status, body := r.get(t, path); status != http.StatusOK || strings.TrimSpace(body) != want {
			t.Errorf("%s answered %d %s", path, status, body)
		}
	}
	if status, body := r.get(t, "/readyz"); status != http.StatusOK {
		t.Errorf("not ready: %s", body)
	}
	if got := r.backends()["adder:v1"].Config.MaxBatchSize; got != 4 {
		t.Errorf("max_batch_size is %d", got)
	}
	e, err := r.Registry.EndpointStatus("adder")
	if err != nil || e.Shadows["scaler"] != 0.5 {
		t.Errorf("endpoint is %+v, %v", e, err)
	}
	r.stop()
	if err := r.end(t); err != nil {
		t.Errorf("stopped with %v", err)
	}
}

func TestAServerIsNotReadyBeforeItHasWhatItIsToServe(t *testing.T) {
	r := start(t)
	done := r.Deploying()
	if status, body := r.get(t, "/readyz"); status != http.StatusServiceUnavailable || !strings.Contains(body, "still being deployed") {
		t.Errorf("while it deploys it says %d %s", status, body)
	}
	done()
	if status, body := r.get(t, "/readyz"); status != http.StatusOK {
		t.Errorf("then it says %d %s", status, body)
	}
}

func TestAllModelsThatCannotBeLoadedAreNamedWithTheirTracebacks(t *testing.T) {
	r := start(t)
	_, err := r.Apply(t.Context(), parse(t, `
backends:
  a: {python: models.py:Broken}
  b: {python: absent.py:f}
  c: {python: models.py:adder}
endpoints:
  e: {route: /e, backend: c}
`), false)
	if err == nil {
		t.Fatal("all is well")
	}
	for _, want := range []string{`"a"`, "no weights", "Traceback", "in __init__", `"b"`, "absent.py"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not say %q:\n%v", want, err)
		}
	}
	if load, ok := errors.AsType[*serving.LoadError](err); !ok || load.Backend != "a" {
		t.Errorf("error is %#v", err)
	}
	if len(r.Registry.EndpointStatuses()) > 0 {
		t.Error("there is an endpoint, of a file that cannot be served")
	}
}

func TestAStopFinishesWhatWasAccepted(t *testing.T) {
	r := start(t)
	if _, err := r.Apply(t.Context(), parse(t, "backends: {gate: {python: models.py:gate}}\nendpoints: {gate: {route: /gate, backend: gate}}\n"), false); err != nil {
		t.Fatal(err)
	}
	states := r.states(t)
	if len(states) != 1 {
		t.Fatalf("state directories are %v", states)
	}
	if info, err := os.Stat(states[0]); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("state directory is %v, %v", info, err)
	}
	p := newPipes(t)
	answer := make(chan string, 1)
	go func() {
		_, body, err := r.tryGet(p.path())
		answer <- errors.Join(err, errors.New(body)).Error()
	}()
	pass(t, p.entered, os.O_RDONLY)
	r.stop()
	for deadline := time.Now().Add(patience); ; {
		if status, _, err := r.tryGet("/livez"); err != nil || status == http.StatusServiceUnavailable {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the server still takes queries")
		}
	}
	pass(t, p.opened, os.O_WRONLY)
	if got := <-answer; strings.TrimSpace(got) != "through" {
		t.Errorf("the accepted query got %q", got)
	}
	if err := r.end(t); err != nil {
		t.Errorf("stopped with %v", err)
	}
	if left, err := os.ReadDir(r.temp); err != nil || len(r.states(t)) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestAForcedStopWaitsForNobody(t *testing.T) {
	r := start(t)
	if _, err := r.Apply(t.Context(), parse(t, "backends: {gate: {python: models.py:gate}}\nendpoints: {gate: {route: /gate, backend: gate}}\n"), false); err != nil {
		t.Fatal(err)
	}
	p := newPipes(t)
	status := make(chan int, 1)
	go func() {
		code, _, _ := r.tryGet(p.path())
		status <- code
	}()
	pass(t, p.entered, os.O_RDONLY)
	r.stop()
	r.Abort()
	if err := r.end(t); !errors.Is(err, errForced) {
		t.Errorf("stopped with %v", err)
	}
	if got := <-status; got != 0 && got != http.StatusServiceUnavailable {
		t.Errorf("the query that nobody waited for got %d", got)
	}
	if len(r.states(t)) > 0 {
		t.Error("the state directory was left behind")
	}
}

func TestAServerThatCannotListenLeavesNothing(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for name, change := range map[string]func(*Options){
		"the HTTP address is taken":  func(o *Options) { o.HTTPAddress = taken.Addr().String() },
		"the HTTP address is none":   func(o *Options) { o.HTTPAddress = "nowhere" },
		"the admin address is none":  func(o *Options) { o.AdminAddress = "nowhere" },
		"the admin API has no token": func(o *Options) { o.AdminAddress = "http://127.0.0.1:0" },
	} {
		t.Run(name, func(t *testing.T) {
			opts, temp := options(t)
			change(&opts)
			if _, err := New(opts); err == nil {
				t.Error("there is a server")
			}
			if left, err := filepath.Glob(filepath.Join(temp, "shoal-*")); err != nil || len(left) > 0 {
				t.Errorf("left behind: %v, %v", left, err)
			}
		})
	}
}

func TestTheAdminAPIAnswersWhereItSays(t *testing.T) {
	r := start(t)
	client, err := admin.Dial(r.AdminAddress(), "", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	status, err := client.Status(t.Context())
	if err != nil || status.HTTPAddress != r.HTTPAddress() || !status.Ready {
		t.Errorf("status is %+v, %v", status, err)
	}
}

func TestTheAdminAPIByTCPWantsItsToken(t *testing.T) {
	opts, _ := options(t)
	opts.AdminAddress, opts.Token = "http://127.0.0.1:0", "secret"
	s, err := New(opts)
	if err != nil {
		t.Fatal(err)
	}
	r := &running{Server: s, ended: make(chan error, 1)}
	ctx, stop := contextOf(t)
	go func() { r.ended <- s.Run(ctx) }()
	for token, wrong := range map[string]bool{"secret": false, "guess": true, "": true} {
		client, err := admin.Dial(s.AdminAddress(), token, nil)
		if err != nil {
			t.Fatal(err)
		}
		_, err = client.Status(t.Context())
		if refused := errors.Is(err, &serving.Error{Code: serving.Unauthorized}); refused != wrong {
			t.Errorf("with token %q: %v", token, err)
		}
		client.Close()
	}
	stop()
	if err := r.end(t); err != nil {
		t.Error(err)
	}
}
