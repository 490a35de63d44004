package admin

import (
	"context"
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/shoalserve/shoal/internal/runtime/python"
	"github.com/shoalserve/shoal/internal/serving"
)

// fakes deploys a fakeBackend for whatever is asked.
var fakes = deployFunc(func(_ context.Context, name string, _ python.Spec, config serving.Config) (serving.Backend, error) {
	b := newFake(name)
	b.config = config
	b.config.Timeout = serving.Duration(time.Minute)
	b.respond = func(c *serving.Call) {
		c.Response = serving.Response{Format: serving.JSON, Body: []byte(`"` + name + `"`)}
	}
	return b, nil
})

var fileSpec = BackendSpec{Spec: python.Spec{Source: python.Source{Kind: "file", Path: "app.py", Object: "Adder"}}}

func TestALifeOfAnEndpoint(t *testing.T) {
	s := serve(t, Options{Deployer: fakes, HTTPAddress: func() string { return "127.0.0.1:8000" }})
	ctx, c := t.Context(), s.client
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"adder:v1", "adder/v2 ü"} {
		spec := fileSpec
		spec.Config = json.RawMessage(`{"max_batch_size":4,"batch_wait_timeout":"2ms"}`)
		b, err := c.Deploy(ctx, name, spec, false)
		must(err)
		if b.Name != name || b.Config.MaxBatchSize != 4 || b.State != serving.StateReady {
			t.Errorf("deployed %+v", b)
		}
	}
	e, err := c.CreateEndpoint(ctx, "add", serving.EndpointSpec{Backend: "adder:v1", Route: "/add", Methods: []string{"get", "POST"}})
	must(err)
	want := serving.EndpointStatus{
		Name: "add", Route: "/add", Methods: []string{"GET", "POST"},
		Traffic: map[string]float64{"adder:v1": 1}, Shadows: map[string]float64{},
	}
	if diff := cmp.Diff(want, e); diff != "" {
		t.Error(diff)
	}
	if response := s.raw(t, "PUT", "/v1/endpoints/add", `{"backend":"adder:v1","route":"/add","methods":["GET","POST"]}`); response.StatusCode != 200 {
		t.Errorf("the same endpoint again gives %s", response.Status)
	}

	e, err = c.SetTraffic(ctx, "add", map[string]float64{"adder:v1": 0.25, "adder/v2 ü": 0.75})
	must(err)
	if e.Traffic["adder/v2 ü"] != 0.75 {
		t.Errorf("traffic is %v", e.Traffic)
	}
	e, err = c.Shadow(ctx, "add", "adder:v1", 0.5)
	must(err)
	if e.Shadows["adder:v1"] != 0.5 {
		t.Errorf("shadows are %v", e.Shadows)
	}
	e, err = c.Shadow(ctx, "add", "adder:v1", 0)
	must(err)
	if len(e.Shadows) != 0 {
		t.Errorf("shadows are %v", e.Shadows)
	}
	b, err := c.UpdateConfig(ctx, "adder/v2 ü", json.RawMessage(`{"max_batch_size":8}`))
	must(err)
	if b.Config.MaxBatchSize != 8 || b.Config.BatchWaitTimeout != serving.Duration(2*time.Millisecond) {
		t.Errorf("config is %+v", b.Config)
	}

	status, err := c.Status(ctx)
	must(err)
	if status.Version != "1.2.3" || status.PID != os.Getpid() || status.HTTPAddress != "127.0.0.1:8000" ||
		!status.Ready || len(status.Backends) != 2 || len(status.Endpoints) != 1 {
		t.Errorf("status is %+v", status)
	}
	backends, err := c.Backends(ctx)
	must(err)
	endpoints, err := c.Endpoints(ctx)
	must(err)
	if len(backends) != 2 || len(endpoints) != 1 {
		t.Errorf("lists have %d backends, %d endpoints", len(backends), len(endpoints))
	}
	_, err = c.Backend(ctx, "adder/v2 ü")
	must(err)
	_, err = c.Endpoint(ctx, "add")
	must(err)

	wantCode(t, c.DeleteBackend(ctx, "adder:v1"), serving.InUse, "add")
	must(c.DeleteEndpoint(ctx, "add"))
	must(c.DeleteEndpoint(ctx, "add"))
	must(c.DeleteBackend(ctx, "adder:v1"))
	must(c.DeleteBackend(ctx, "adder:v1"))
	_, err = c.Backend(ctx, "adder:v1")
	wantCode(t, err, serving.BackendNotFound)
}

func TestStatusSaysWhatIsMissing(t *testing.T) {
	s := serve(t, Options{Deployer: fakes})
	broken := newFake("m")
	broken.refusal = serving.Errorf(serving.Unavailable, "no replica")
	s.deploy(t, broken)
	if _, err := s.registry.CreateEndpoint("probed", serving.EndpointSpec{Backend: "m", Route: "/p", Example: &serving.Example{}}); err != nil {
		t.Fatal(err)
	}
	status, err := s.client.Status(t.Context())
	if err != nil || status.Ready || !strings.Contains(status.NotReady, "no replica") {
		t.Errorf("status is %+v, %v", status, err)
	}
}

func TestAPickleIsDeployedFromItsArtifact(t *testing.T) {
	paths := make(chan string, 1)
	s := serve(t, Options{Deployer: deployFunc(func(_ context.Context, name string, spec python.Spec, _ serving.Config) (serving.Backend, error) {
		paths <- spec.Source.Path
		return newFake(name), nil
	})})
	a, err := s.client.Upload(t.Context(), strings.NewReader("a pickle"))
	if err != nil || a.Size != 8 {
		t.Fatalf("Upload = %+v, %v", a, err)
	}
	spec := BackendSpec{Spec: python.Spec{Source: python.Source{Kind: "pickle", Digest: a.Digest}}}
	if _, err := s.client.Deploy(t.Context(), "m", spec, false); err != nil {
		t.Fatal(err)
	}
	if content, err := os.ReadFile(<-paths); err != nil || string(content) != "a pickle" {
		t.Errorf("the worker would load %q, %v", content, err)
	}
}

func TestAnUploadBeyondTheLimit(t *testing.T) {
	s := serve(t, Options{MaxArtifactBytes: 4})
	_, err := s.client.Upload(t.Context(), strings.NewReader("hello"))
	wantCode(t, err, serving.TooLarge, "4 bytes")
}
