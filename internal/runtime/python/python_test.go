package python

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/shoalserve/shoal/batch"
	"github.com/shoalserve/shoal/internal/serving"
)

// patience bounds waits that are never reached when all is well, also where other programs
// have the processors for most of the time.
const patience = 2 * time.Minute

// deploy starts a backend of a function or class in testdata.
func deploy(t *testing.T, spec Spec, config serving.Config, opts Options) (serving.Backend, error) {
	t.Helper()
	sdk, err := filepath.Abs("../../../python")
	if err != nil {
		t.Fatal(err)
	}
	opts.SDKDir = sdk
	b, err := NewDeployer(opts).Backend(t.Context(), "model:v1", spec, config)
	if err == nil {
		t.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			if err := b.Close(ctx); err != nil {
				t.Errorf("closing the backend: %v", err)
			}
		})
	}
	return b, err
}

func file(object string) Spec {
	return Spec{Source: Source{Kind: "file", Path: "testdata/models.py", Object: object}}
}

func mustDeploy(t *testing.T, object string, config serving.Config) serving.Backend {
	t.Helper()
	b, err := deploy(t, file(object), config, Options{})
	if err != nil {
		t.Fatalf("deploying %s: %v", object, err)
	}
	return b
}

// submit submits a call and returns the function that waits for it.
func submit(t *testing.T, b serving.Backend, c *serving.Call) func() *serving.Call {
	t.Helper()
	done := make(chan struct{})
	c.Backend, c.Done = b, func(*serving.Call) { close(done) }
	if err := b.Submit(c); err != nil {
		t.Fatalf("submitting: %v", err)
	}
	return func() *serving.Call {
		select {
		case <-done:
		case <-time.After(patience):
			t.Fatalf("no answer within %v", patience)
		}
		return c
	}
}

func web(target string) *serving.Call {
	return &serving.Call{Origin: batch.Web, Request: &serving.Request{ID: "id-1", Method: "GET", Target: target}}
}

func api(kwargs string) *serving.Call {
	return &serving.Call{Origin: batch.API, Args: serving.Args{
		Head: []byte(`{"encoding":"json"}`), Payload: []byte(`{"data":null,"kwargs":` + kwargs + `}`),
	}}
}

func TestWebAndAPIQueriesReachTheModelInBatchesOfTheirOwn(t *testing.T) {
	b := mustDeploy(t, "adder", serving.Config{MaxBatchSize: 4})
	var waits []func() *serving.Call
	for i := range 40 {
		if i%2 == 0 {
			waits = append(waits, submit(t, b, web(fmt.Sprintf("/adder?number=%d", i))))
		} else {
			waits = append(waits, submit(t, b, api(fmt.Sprintf(`{"number":%d}`, i))))
		}
	}
	for i, wait := range waits {
		c := wait()
		if c.Err != nil {
			t.Fatalf("query %d: %v", i, c.Err)
		}
		var got struct {
			Sum, Batch int
			Web        bool
		}
		if err := json.Unmarshal(c.Response.Body, &got); err != nil {
			t.Fatalf("query %d: %v in %q", i, err, c.Response.Body)
		}
		if got.Sum != i+1 || got.Web != (i%2 == 0) || got.Batch != c.Trip.BatchSize || got.Batch > 4 {
			t.Errorf("query %d got %+v in a batch of %d", i, got, c.Trip.BatchSize)
		}
	}
}

func TestASingleModelFailsItemByItem(t *testing.T) {
	b := mustDeploy(t, "single", serving.Config{})
	if got := b.Config().MaxBatchSize; got != 1 {
		t.Errorf("max_batch_size of a single model is %d, want 1", got)
	}
	good, bad := submit(t, b, api(`{"number":21}`)), submit(t, b, api(`{"number":-1}`))
	if c := good(); c.Err != nil || string(c.Response.Body) != "42" {
		t.Errorf("good query: %q, %v", c.Response.Body, c.Err)
	}
	c := bad()
	failure, ok := errors.AsType[*serving.ModelError](c.Err)
	if !ok || failure.Type != "ValueError" || failure.Message != "-1 is negative" || !strings.Contains(failure.Traceback, "in single") {
		t.Errorf("bad query: %#v", c.Err)
	}
}

func TestASingleModelRefusesABatchSize(t *testing.T) {
	_, err := deploy(t, file("single"), serving.Config{MaxBatchSize: 4}, Options{})
	if err == nil || !strings.Contains(err.Error(), "accept_batch") {
		t.Errorf("got %v, want an error that names accept_batch", err)
	}
}

func TestAClassIsConstructedWithItsArgumentsAndItsMethodsAreCallable(t *testing.T) {
	spec := file("Greeter")
	spec.Source.InitArgs = []json.RawMessage{[]byte(`"Hello"`)}
	spec.Source.InitKwargs = map[string]json.RawMessage{"mark": []byte(`"?"`)}
	b, err := deploy(t, spec, serving.Config{}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if c := submit(t, b, api(`{"name":"Ann"}`))(); c.Err != nil || string(c.Response.Body) != "Hello, Ann?" || c.Response.Format != serving.Text {
		t.Errorf("__call__: %+v, %v", c.Response, c.Err)
	}
	call := api(`{"name":"Ann"}`)
	call.Method = "shout"
	if c := submit(t, b, call)(); c.Err != nil || string(c.Response.Body) != "ANN" {
		t.Errorf("shout: %+v, %v", c.Response, c.Err)
	}
}

func TestRequestsArriveWhole(t *testing.T) {
	b := mustDeploy(t, "describe", serving.Config{})
	c := web("/some/path?x=1")
	c.Request.Host = "models.example"
	c.Request.Header = http.Header{"X-Thing": {"a thing"}, "Content-Type": {"application/json"}}
	c.Request.Body = []byte(`{"k":[1,2]}`)
	got := submit(t, b, c)()
	want := `{"method":"GET","path":"/some/path","id":"id-1","header":"a thing","host":"models.example","json":{"k":[1,2]}}`
	if got.Err != nil || strings.ReplaceAll(string(got.Response.Body), " ", "") != strings.ReplaceAll(want, " ", "") {
		t.Errorf("got %s, %v", got.Response.Body, got.Err)
	}
}

func TestLargeAndSmallPayloadsShareABatch(t *testing.T) {
	b := mustDeploy(t, "echo", serving.Config{MaxBatchSize: 8})
	var waits []func() *serving.Call
	var bodies []string
	for i := range 24 {
		body := strings.Repeat(string(rune('a'+i)), 1+(i%3)*300_000)
		c := web("/")
		c.Request.Body = []byte(body)
		bodies, waits = append(bodies, body), append(waits, submit(t, b, c))
	}
	for i, wait := range waits {
		if c := wait(); c.Err != nil || string(c.Response.Body) != bodies[i] {
			t.Errorf("query %d of %d bytes: got %d bytes, %v", i, len(bodies[i]), len(c.Response.Body), c.Err)
		}
	}
}

func TestAWrongAnswerCountNamesBackendExpectedAndGot(t *testing.T) {
	b := mustDeploy(t, "wrong_count", serving.Config{})
	c := submit(t, b, web("/"))()
	count, ok := errors.AsType[*batch.CountError](c.Err)
	if !ok || count.Name != "model:v1" || count.Expected != 1 || count.Got != 2 {
		t.Errorf("got %v", c.Err)
	}
}

func TestAModelThatRaisesFailsItsBatchAndLivesOn(t *testing.T) {
	b := mustDeploy(t, "raises", serving.Config{})
	for range 3 {
		c := submit(t, b, web("/"))()
		failure, ok := errors.AsType[*serving.ModelError](c.Err)
		if !ok || failure.Type != "RuntimeError" || failure.Message != "no luck" || failure.Status != 500 {
			t.Errorf("got %v", c.Err)
		}
	}
	if restarts := b.Status().Replicas[0].Restarts; restarts != 0 {
		t.Errorf("the worker was restarted %d times", restarts)
	}
}

func TestWhatAModelPrintsGoesToTheLogAndItsEnvironmentIsSet(t *testing.T) {
	var mu sync.Mutex
	logged := make(map[string]bool)
	both := make(chan struct{})
	log := func(backend string, replica int, stream, line string) {
		mu.Lock()
		defer mu.Unlock()
		logged[fmt.Sprint(backend, replica, stream, line)] = true
		if logged["model:v10stdoutto stdout"] && logged["model:v10stderrto stderr"] {
			select {
			case <-both:
			default:
				close(both)
			}
		}
	}
	b, err := deploy(t, file("talks"), serving.Config{Env: map[string]string{"GREETING": "hi"}}, Options{Log: log})
	if err != nil {
		t.Fatal(err)
	}
	if c := submit(t, b, web("/"))(); string(c.Response.Body) != "hi" {
		t.Errorf("environment: got %q, %v", c.Response.Body, c.Err)
	}
	if err := b.Update(t.Context(), func() serving.Config {
		c := b.Config()
		c.Env = map[string]string{"GREETING": "hello"}
		return c
	}()); err != nil {
		t.Fatal(err)
	}
	if c := submit(t, b, web("/"))(); string(c.Response.Body) != "hello" {
		t.Errorf("environment after an update: got %q, %v", c.Response.Body, c.Err)
	}
	select {
	case <-both:
	case <-time.After(patience):
		mu.Lock()
		defer mu.Unlock()
		t.Errorf("logged only %v", logged)
	}
}

func TestAnImportThatFailsIsReportedWithItsTraceback(t *testing.T) {
	for name, spec := range map[string]Spec{
		"import": {Source: Source{Kind: "file", Path: "testdata/broken.py", Object: "x"}},
		"object": file("no_such_object"),
		"file":   {Source: Source{Kind: "file", Path: "testdata/nowhere.py", Object: "x"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := deploy(t, spec, serving.Config{}, Options{})
			load, ok := errors.AsType[*serving.LoadError](err)
			if !ok || load.Traceback == "" {
				t.Errorf("got %#v", err)
			}
			if name == "import" && !strings.Contains(load.Traceback, "a_module_that_does_not_exist") {
				t.Errorf("traceback does not name the module: %s", load.Traceback)
			}
		})
	}
}

func TestAnInterpreterThatDoesNotExistIsReported(t *testing.T) {
	spec := file("adder")
	spec.Interpreter = "no-such-python"
	_, err := deploy(t, spec, serving.Config{}, Options{})
	if load, ok := errors.AsType[*serving.LoadError](err); !ok || !strings.Contains(load.Message, "no-such-python") {
		t.Errorf("got %v", err)
	}
}

func TestAQueryThatKillsTwoWorkersIsRefusedAndTheyAreReplaced(t *testing.T) {
	for _, how := range []string{"kill", "exit"} {
		t.Run(how, func(t *testing.T) {
			b := mustDeploy(t, "dies", serving.Config{})
			before := b.Status().Replicas[0].PID
			victim := submit(t, b, api(fmt.Sprintf(`{"how":%q}`, how)))
			survivors := []func() *serving.Call{submit(t, b, web("/")), submit(t, b, web("/"))}
			if c := victim(); serving.Describe(c.Err).Code != serving.WorkerDied || !strings.Contains(c.Err.Error(), "2 replicas") {
				t.Errorf("the query that killed the workers got %v", c.Err)
			}
			for _, wait := range survivors {
				if c := wait(); c.Err != nil || string(c.Response.Body) != "alive" {
					t.Errorf("a query that waited got %q, %v", c.Response.Body, c.Err)
				}
			}
			after := b.Status().Replicas[0]
			if after.PID == before || after.Restarts != 2 || after.State != serving.StateReady {
				t.Errorf("replica after the death: %+v (pid before: %d)", after, before)
			}
		})
	}
}

func TestAnIdleWorkerThatIsKilledIsReplaced(t *testing.T) {
	b := mustDeploy(t, "adder", serving.Config{})
	if err := syscall.Kill(b.Status().Replicas[0].PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	// The query either waits for the new worker or is on its way to the dead one.
	c := submit(t, b, web("/?number=1"))()
	if c.Err != nil && serving.Describe(c.Err).Code != serving.WorkerDied {
		t.Errorf("got %v", c.Err)
	}
	if c := submit(t, b, web("/?number=2"))(); c.Err != nil {
		t.Errorf("a query after the death got %v", c.Err)
	}
}

func TestConcurrentBatchesRunAtTheSameTime(t *testing.T) {
	b := mustDeploy(t, "meet", serving.Config{MaxBatchSize: 1, MaxConcurrentBatches: 2})
	first, second := submit(t, b, web("/")), submit(t, b, web("/"))
	if c := first(); c.Err != nil {
		t.Error(c.Err)
	}
	if c := second(); c.Err != nil {
		t.Error(c.Err)
	}
}

func TestAModelThatHangsIsKilledWhenTheCloseRunsOutOfTime(t *testing.T) {
	sdk, _ := filepath.Abs("../../../python")
	b, err := NewDeployer(Options{SDKDir: sdk}).Backend(t.Context(), "hangs", file("hangs"), serving.Config{})
	if err != nil {
		t.Fatal(err)
	}
	wait := submit(t, b, web("/"))
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := b.Close(ctx); err == nil {
		t.Error("closing a hanging backend reported no error")
	}
	if c := wait(); serving.Describe(c.Err).Code != serving.WorkerDied {
		t.Errorf("the query that hung got %v", c.Err)
	}
}

func TestACloseFinishesWhatWasAccepted(t *testing.T) {
	sdk, _ := filepath.Abs("../../../python")
	b, err := NewDeployer(Options{SDKDir: sdk}).Backend(t.Context(), "adder", file("adder"), serving.Config{MaxBatchSize: 2})
	if err != nil {
		t.Fatal(err)
	}
	var waits []func() *serving.Call
	for i := range 50 {
		waits = append(waits, submit(t, b, web(fmt.Sprintf("/?number=%d", i))))
	}
	if err := b.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	for i, wait := range waits {
		if c := wait(); c.Err != nil {
			t.Errorf("query %d: %v", i, c.Err)
		}
	}
	if err := b.Submit(web("/")); !errors.Is(err, batch.ErrDraining) {
		t.Errorf("a query after the close got %v", err)
	}
}
