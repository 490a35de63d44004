package shoal_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"time"

	"github.com/shoalserve/shoal"
)

// get asks an app over HTTP and returns the body of the answer.
func get(app *shoal.App, target string) string {
	server := httptest.NewServer(app.Handler())
	defer server.Close()
	response, err := server.Client().Get(server.URL + target)
	must(err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	must(err)
	return string(body)
}

// constant returns a model that answers every query with the same text.
func constant(text string) shoal.Model {
	return shoal.Batch(func(_ context.Context, in []int) ([]string, error) {
		return slices.Repeat([]string{text}, len(in)), nil
	})
}

// An endpoint's route answers GET with query parameters, and POST with JSON.
func ExampleApp_Handler() {
	ctx := context.Background()
	app := newAdder(ctx)
	defer app.Close(ctx)
	fmt.Println(get(app, "/adder?number=41"))
	// Output: 42
}

// A program that serves until it is interrupted. Load balancers learn that it is about to
// stop before it refuses anything.
func ExampleApp_ListenAndServe() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	app := shoal.New(shoal.Options{ShutdownDelay: 15 * time.Second})
	must(app.CreateBackend(ctx, "m", constant("hello"), shoal.Config{}))
	must(app.CreateEndpoint("m", shoal.Endpoint{Backend: "m", Route: "/m"}))
	must(app.ListenAndServe(ctx, "127.0.0.1:8000"))
	must(app.Close(context.Background()))
}

// A new version goes live behind the same endpoint by a change of traffic.
func ExampleApp_SetTraffic() {
	ctx := context.Background()
	app := shoal.New(shoal.Options{})
	defer app.Close(ctx)
	must(app.CreateBackend(ctx, "m:v1", constant("old"), shoal.Config{}))
	must(app.CreateEndpoint("m", shoal.Endpoint{Backend: "m:v1"}))
	handle, err := shoal.GetHandle[int, string](app, "m")
	must(err)
	fmt.Println(handle.Call(ctx, 0))

	must(app.CreateBackend(ctx, "m:v2", constant("new"), shoal.Config{}))
	must(app.SetTraffic("m", shoal.Traffic{"m:v1": 0.9, "m:v2": 0.1})) // a canary
	fmt.Println(handle)
	must(app.SetTraffic("m", shoal.Traffic{"m:v2": 1}))
	fmt.Println(handle.Call(ctx, 0))
	must(app.DeleteBackend(ctx, "m:v1"))
	// Output:
	// old <nil>
	// Handle(endpoint="m", traffic=map[m:v1:0.9 m:v2:0.1])
	// new <nil>
}

// A shadow computes copies of the queries; nobody sees its answers.
func ExampleApp_ShadowTraffic() {
	ctx := context.Background()
	app := newAdder(ctx)
	defer app.Close(ctx)
	seen := make(chan int, 1)
	candidate := shoal.Batch(func(_ context.Context, in []int) ([]int, error) {
		seen <- in[0]
		return nil, errors.New("not finished yet")
	})
	must(app.CreateBackend(ctx, "adder:v2", candidate, shoal.Config{}))
	must(app.ShadowTraffic("adder", "adder:v2", 1)) // every query

	handle, err := shoal.GetHandle[int, int](app, "adder")
	must(err)
	fmt.Println(handle.Call(ctx, 41))
	fmt.Println("the shadow saw", <-seen)
	// Output:
	// 42 <nil>
	// the shadow saw 41
}

// ReplaceBackend puts a new version in place under the same name. If it cannot
// start, the running one goes on.
func ExampleApp_ReplaceBackend() {
	ctx := context.Background()
	app := shoal.New(shoal.Options{})
	defer app.Close(ctx)
	must(app.CreateBackend(ctx, "m", constant("first"), shoal.Config{}))
	must(app.CreateEndpoint("m", shoal.Endpoint{Backend: "m"}))
	handle, err := shoal.GetHandle[int, string](app, "m")
	must(err)

	fmt.Println(errors.Is(app.CreateBackend(ctx, "m", constant("second"), shoal.Config{}), shoal.ErrAlreadyExists))
	must(app.ReplaceBackend(ctx, "m", constant("second"), shoal.Config{}))
	fmt.Println(handle.Call(ctx, 0))
	// Output:
	// true
	// second <nil>
}

// A new version may take over step by step, and is turned back when it does worse.
func ExampleApp_StartCanary() {
	ctx := context.Background()
	app := newAdder(ctx)
	defer app.Close(ctx)
	broken := shoal.Batch(func(context.Context, []int) ([]int, error) { return nil, errors.New("no weights") })
	must(app.CreateBackend(ctx, "adder:v2", broken, shoal.Config{}))
	must(app.StartCanary("adder", shoal.Canary{Backend: "adder:v2", Steps: []float64{0.5}, StepTime: 40 * time.Millisecond}))
	handle, err := shoal.GetHandle[int, int](app, "adder")
	must(err)
	canary, _, err := app.Canary("adder")
	for canary.State == shoal.CanaryShifting {
		must(err)
		_, _ = handle.Call(ctx, 1) // some of which fail
		canary, _, err = app.Canary("adder")
	}
	fmt.Println(canary.Backend, canary.State)
	fmt.Println(handle)
	// Output:
	// adder:v2 rolled_back
	// Handle(endpoint="adder", traffic=map[adder:v1:1])
}

// An answer that depends on the other queries of its batch is a bug of the model's.
func ExampleApp_Verify() {
	ctx := context.Background()
	app := shoal.New(shoal.Options{})
	defer app.Close(ctx)
	centred := shoal.Batch(func(_ context.Context, in []float64) ([]float64, error) {
		mean := 0.0
		for _, x := range in {
			mean += x / float64(len(in))
		}
		out := make([]float64, len(in))
		for i, x := range in {
			out[i] = x - mean // of strangers
		}
		return out, nil
	})
	must(app.CreateBackend(ctx, "centred:v1", centred, shoal.Config{MaxBatchSize: 2}))
	must(app.CreateEndpoint("centred", shoal.Endpoint{Backend: "centred:v1"}))
	reports, err := app.Verify(ctx, "centred", shoal.Verification{Items: []any{1.0, 2.0}})
	must(err)
	for _, c := range reports[0].Cases {
		if c.Answers > 0 {
			fmt.Printf("%s, %d: %d of %d answers differ\n", c.Company, c.Size, c.Differed, c.Answers)
		}
	}
	// Output:
	// alone, 1: 0 of 2 answers differ
	// batch, 2: 2 of 2 answers differ
}

// The config may change while queries run.
func ExampleApp_UpdateBackendConfig() {
	ctx := context.Background()
	app := newAdder(ctx)
	defer app.Close(ctx)
	must(app.UpdateBackendConfig(ctx, "adder:v1", func(c *shoal.Config) {
		c.MaxBatchSize = 16
		c.NumReplicas = 2
	}))
	config := app.Backends()[0].Config
	fmt.Println(config.MaxBatchSize, config.NumReplicas, config.MaxQueued)
	// Output: 16 2 4096
}

// Backends and endpoints can be listed and deleted.
func ExampleApp_DeleteBackend() {
	ctx := context.Background()
	app := newAdder(ctx)
	defer app.Close(ctx)
	for _, e := range app.Endpoints() {
		fmt.Println(e.Name, e.Route, e.Methods, e.Traffic)
	}
	fmt.Println(app.DeleteBackend(ctx, "adder:v1"))
	must(app.DeleteEndpoint("adder"))
	must(app.DeleteBackend(ctx, "adder:v1"))
	fmt.Println(len(app.Backends()), len(app.Endpoints()))
	// Output:
	// adder /adder [GET] map[adder:v1:1]
	// backend "adder:v1" is used by endpoint "adder"; move its traffic and shadow traffic away first
	// 0 0
}

// Map computes more queries than fit into memory, in order, keeping batches full.
func ExampleHandle_Map() {
	ctx := context.Background()
	app := newAdder(ctx)
	defer app.Close(ctx)
	handle, err := shoal.GetHandle[int, int](app, "adder")
	must(err)
	total := 0
	for sum, err := range handle.Map(ctx, slices.Values([]int{1, 2, 3, 4, 5}), 0) {
		must(err)
		total += sum
	}
	fmt.Println(total)
	// Output: 20
}

// Each answer tells in how large a batch it was computed, and why that batch
// left when it did.
func ExampleRef_Trip() {
	ctx := context.Background()
	app := newAdder(ctx)
	defer app.Close(ctx)
	handle, err := shoal.GetHandle[int, int](app, "adder")
	must(err)
	ref := handle.Remote(ctx, 1)
	<-ref.Done()
	fmt.Println(ref.Trip().BatchSize, ref.Trip().Reason)
	// Output: 1 free
}

// Callers show keys, and ask what their key allows.
func ExampleNewAuth() {
	ctx := context.Background()
	key, sha256 := shoal.NewKey()
	auth, err := shoal.NewAuth(shoal.AuthConfig{Keys: map[string]shoal.Key{
		"alice": {SHA256: sha256, Grant: shoal.Grant{Scopes: []shoal.Scope{shoal.ScopeQuery}, Endpoints: []string{"m"}}},
	}}, nil)
	must(err)
	defer auth.Close()
	app := shoal.New(shoal.Options{Auth: auth})
	defer app.Close(ctx)
	must(app.CreateBackend(ctx, "m", shoal.Batch(func(ctx context.Context, in []*shoal.Request) ([]string, error) {
		out := make([]string, len(in))
		for i, r := range in {
			out[i] = "hello, " + r.Header.Get("Shoal-Caller") // who has shown the key, and not the key
		}
		return out, nil
	}), shoal.Config{}))
	must(app.CreateEndpoint("m", shoal.Endpoint{Backend: "m", Route: "/m"}))
	must(app.CreateEndpoint("other", shoal.Endpoint{Backend: "m", Route: "/other"}))

	server := httptest.NewServer(app.Handler())
	defer server.Close()
	fmt.Println(ask(server, "/m", ""))
	fmt.Println(ask(server, "/m", key))
	fmt.Println(ask(server, "/other", key))
	// Output:
	// 401 Unauthorized
	// 200 OK hello, alice
	// 403 Forbidden
}

// ask asks with a key and returns the status of the answer, and its body if it is one.
func ask(server *httptest.Server, path, key string) string {
	r, err := http.NewRequestWithContext(context.Background(), http.MethodGet, server.URL+path, nil)
	must(err)
	if key != "" {
		r.Header.Set("Authorization", "Bearer "+key)
	}
	response, err := server.Client().Do(r)
	must(err)
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return response.Status
	}
	body, err := io.ReadAll(response.Body)
	must(err)
	return response.Status + " " + string(body)
}
