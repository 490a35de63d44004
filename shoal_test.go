package shoal_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/shoalserve/shoal"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newApp(t *testing.T) *shoal.App {
	t.Helper()
	app := shoal.New(shoal.Options{})
	t.Cleanup(func() {
		if err := app.Close(context.Background()); err != nil {
			t.Errorf("closing the app: %v", err)
		}
	})
	return app
}

// serve deploys a model behind an endpoint "m" with route /m.
func serve(t *testing.T, app *shoal.App, model shoal.Model, config shoal.Config) {
	t.Helper()
	if err := app.CreateBackend(t.Context(), "m:v1", model, config); err != nil {
		t.Fatal(err)
	}
	if err := app.CreateEndpoint("m", shoal.Endpoint{Backend: "m:v1", Route: "/m", Methods: []string{"GET", "POST"}}); err != nil {
		t.Fatal(err)
	}
}

func handle[In, Out any](t *testing.T, app *shoal.App) *shoal.Handle[In, Out] {
	t.Helper()
	h, err := shoal.GetHandle[In, Out](app, "m")
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// gate is a model that tells when it has a batch and computes it when told to.
type gate struct {
	began   chan []int
	release chan error
}

func newGate() gate { return gate{make(chan []int, 100), make(chan error, 100)} }

func (g gate) predict(_ context.Context, in []int) ([]int, error) {
	g.began <- in
	return in, <-g.release
}

func TestAFullQueueRefusesAndKeepsWhatItHas(t *testing.T) {
	app, g := newApp(t), newGate()
	serve(t, app, shoal.Batch(g.predict), shoal.Config{MaxBatchSize: 1, MaxQueued: 2})
	h := handle[int, int](t, app)
	refs := []*shoal.Ref[int]{h.Remote(t.Context(), 0)}
	<-g.began // the model is busy
	refs = append(refs, h.Remote(t.Context(), 1), h.Remote(t.Context(), 2))
	if _, err := h.Call(t.Context(), 3); !errors.Is(err, shoal.ErrQueueFull) {
		t.Errorf("the third that waits got %v", err)
	}
	for range refs {
		g.release <- nil
	}
	for i, ref := range refs {
		if got, err := ref.Get(t.Context()); got != i || err != nil {
			t.Errorf("query %d got %d, %v", i, got, err)
		}
	}
}

func TestHandlesHaveCallersAndPriorities(t *testing.T) {
	app, g := newApp(t), newGate()
	serve(t, app, shoal.Batch(g.predict), shoal.Config{
		MaxBatchSize: 2, LeaveAtOnce: true, CallerWeights: map[string]float64{"gold": 2}, IsolateCallers: true,
	})
	h := handle[int, int](t, app)
	refs := []*shoal.Ref[int]{h.Remote(t.Context(), 0)}
	<-g.began // the model is busy
	refs = append(refs, h.Remote(t.Context(), 1), h.WithCaller("gold").Remote(t.Context(), 2))
	refs = append(refs, h.WithPriority(shoal.MaxPriority).Remote(t.Context(), 3), h.WithPriority(99).WithCaller("gold").Remote(t.Context(), 4))
	var batches [][]int
	for range 3 {
		g.release <- nil
		if len(batches) < 2 {
			batches = append(batches, <-g.began)
		}
	}
	for i, ref := range refs {
		if got, err := ref.Get(t.Context()); got != i || err != nil {
			t.Errorf("query %d got %d, %v", i, got, err)
		}
	}
	// Those without a name are one caller, whose urgent query brings the other along.
	if want := [][]int{{3, 1}, {4, 2}}; !slices.EqualFunc(batches, want, slices.Equal) {
		t.Errorf("batches %v, want %v", batches, want)
	}
}

func TestAQueryWhoseContextEndsLeavesTheQueue(t *testing.T) {
	app, g := newApp(t), newGate()
	serve(t, app, shoal.Batch(g.predict), shoal.Config{MaxBatchSize: 8})
	h := handle[int, int](t, app)
	first := h.Remote(t.Context(), 0)
	<-g.began
	ctx, cancel := context.WithCancel(t.Context())
	gone, stays := h.Remote(ctx, 1), h.Remote(t.Context(), 2)
	cancel()
	if _, err := gone.Get(t.Context()); !errors.Is(err, context.Canceled) {
		t.Errorf("the query that left got %v", err)
	}
	g.release <- nil
	if batch := <-g.began; !slices.Equal(batch, []int{2}) {
		t.Errorf("the second batch is %v", batch)
	}
	g.release <- nil
	for _, ref := range []*shoal.Ref[int]{first, stays} {
		if _, err := ref.Get(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

// unsaid is an error of which there may be none where one is returned: its text panics.
type unsaid struct{ why string }

func (u *unsaid) Error() string { return u.why }

func TestErrorsAreTyped(t *testing.T) {
	app := newApp(t)
	ctx := t.Context()
	errSad := errors.New("sad")
	model := shoal.Batch(func(_ context.Context, in []int) ([]int, error) {
		switch in[0] {
		case 1:
			return nil, errSad
		case 2:
			return []int{1, 2, 3}, nil
		case 3:
			panic("boom")
		case 7:
			var none *unsaid
			return nil, none
		case 8:
			var none *fs.PathError
			return nil, none
		}
		return in, nil
	})
	model.Cost = func(n int) int {
		if n == 4 {
			return 100
		}
		if n == 5 {
			panic("cannot count")
		}
		return 1
	}
	serve(t, app, model, shoal.Config{MaxBatchSize: 4})
	h := handle[int, int](t, app)

	_, err := h.Call(ctx, 1)
	if failure, ok := errors.AsType[*shoal.ModelError](err); !ok || !errors.Is(err, errSad) || failure.Backend != "m:v1" {
		t.Errorf("a model's error: %v", err)
	}
	_, err = h.Call(ctx, 2)
	if count, ok := errors.AsType[*shoal.CountError](err); !ok || count.Expected != 1 || count.Got != 3 || count.Name != "m:v1" {
		t.Errorf("a wrong count: %v", err)
	}
	_, err = h.Call(ctx, 3)
	if failure, ok := errors.AsType[*shoal.ModelError](err); !ok || failure.Type != "panic" {
		t.Errorf("a panic: %v", err)
	}
	_, err = h.Call(ctx, 4)
	if large, ok := errors.AsType[*shoal.TooLargeError](err); !ok || large.Cost != 100 || large.Max != 4 {
		t.Errorf("a query that is too large: %v", err)
	}
	if _, err = h.Call(ctx, 5); err == nil || !strings.Contains(err.Error(), "cannot count") {
		t.Errorf("a cost function that panics: %v", err)
	}
	for _, n := range []int{7, 8} {
		_, err = h.Call(ctx, n)
		if failure, ok := errors.AsType[*shoal.ModelError](err); !ok || failure.Type != "panic" || !strings.Contains(failure.Message, "nil pointer") {
			t.Errorf("an error that panics when it is looked into: %v", err)
		}
	}
	if got, err := h.Call(ctx, 6); got != 6 || err != nil {
		t.Errorf("a query after all of them: %d, %v", got, err)
	}

	if _, err := shoal.GetHandle[string, int](app, "m"); !errors.Is(err, shoal.ErrInvalidArgument) {
		t.Errorf("a handle of other types: %v", err)
	}
	if _, err := shoal.GetHandle[int, int](app, "n"); !errors.Is(err, shoal.ErrEndpointNotFound) {
		t.Errorf("a handle to nothing: %v", err)
	}
	if err := app.UpdateBackendConfig(ctx, "n", func(*shoal.Config) {}); !errors.Is(err, shoal.ErrBackendNotFound) {
		t.Errorf("an update of nothing: %v", err)
	}
	single := shoal.Single(func(_ context.Context, n int) (int, error) { return n, nil })
	if err := app.CreateBackend(ctx, "s", single, shoal.Config{MaxBatchSize: 4}); !errors.Is(err, shoal.ErrInvalidArgument) {
		t.Errorf("a batch size for a single model: %v", err)
	}
	if err := app.CreateBackend(ctx, "s", single, shoal.Config{NumReplicas: -1}); !errors.Is(err, shoal.ErrInvalidArgument) {
		t.Errorf("-1 replicas: %v", err)
	}
}

// sour cannot be initialized.
type sour struct{}

func (sour) Init(context.Context) error                         { return errors.New("no weights") }
func (sour) Predict(_ context.Context, in []int) ([]int, error) { return in, nil }

func TestAModelThatCannotStartLeavesTheRunningVersion(t *testing.T) {
	app := newApp(t)
	serve(t, app, shoal.Batch(addOne), shoal.Config{})
	err := app.ReplaceBackend(t.Context(), "m:v1", shoal.Stateful(func() shoal.Predictor[int, int] { return sour{} }), shoal.Config{})
	if load, ok := errors.AsType[*shoal.LoadError](err); !ok || !strings.Contains(load.Message, "no weights") {
		t.Errorf("got %v", err)
	}
	if got, err := handle[int, int](t, app).Call(t.Context(), 1); got != 2 || err != nil {
		t.Errorf("the running version answers %d, %v", got, err)
	}
}

// point is an input with several fields.
type point struct {
	X    float64 `json:"x"`
	Y    float64 `json:"y"`
	Name string  `json:"name"`
}

func TestHTTPQueriesAreDecodedToTheModelsType(t *testing.T) {
	app := newApp(t)
	serve(t, app, shoal.Batch(func(_ context.Context, in []point) ([]string, error) {
		var out []string
		for _, p := range in {
			out = append(out, fmt.Sprintf("%s at %v,%v", p.Name, p.X, p.Y))
		}
		return out, nil
	}), shoal.Config{})
	server := httptest.NewServer(app.Handler())
	defer server.Close()
	for name, c := range map[string]struct {
		target, body string
		status       int
		want         string
	}{
		"query parameters": {"/m?x=1&y=2.5&name=a", "", 200, "a at 1,2.5"},
		"JSON":             {"/m", `{"x": 3, "name": "b"}`, 200, "b at 3,0"},
		"wrong type":       {"/m", `{"x": "three"}`, 400, "x of type float64"},
		"no number":        {"/m?x=three", "", 400, "reading the request"},
		"unknown":          {"/m?z=1", "", 400, "z"},
	} {
		t.Run(name, func(t *testing.T) {
			var response *http.Response
			var err error
			if c.body == "" {
				response, err = server.Client().Get(server.URL + c.target)
			} else {
				response, err = server.Client().Post(server.URL+c.target, "application/json", strings.NewReader(c.body))
			}
			if err != nil {
				t.Fatal(err)
			}
			defer response.Body.Close()
			body, err := io.ReadAll(response.Body)
			if err != nil || response.StatusCode != c.status || !strings.Contains(string(body), c.want) {
				t.Errorf("got %d %s, %v", response.StatusCode, body, err)
			}
		})
	}
}

func TestAModelMaySeeTheRequestAndWriteTheResponse(t *testing.T) {
	app := newApp(t)
	serve(t, app, shoal.Batch(func(_ context.Context, in []*shoal.Request) ([]*shoal.Response, error) {
		var out []*shoal.Response
		for _, r := range in {
			body, err := json.Marshal(map[string]string{"method": r.Method, "path": r.URL.Path, "q": r.URL.Query().Get("q"), "body": string(r.Body)})
			if err != nil {
				return nil, err
			}
			out = append(out, &shoal.Response{Status: 201, Header: http.Header{"X-Model": {"m"}}, Body: body})
		}
		return out, nil
	}), shoal.Config{})
	server := httptest.NewServer(app.Handler())
	defer server.Close()
	response, err := server.Client().Post(server.URL+"/m?q=1", "text/plain", strings.NewReader("hello"))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, _ := io.ReadAll(response.Body)
	want := `{"body":"hello","method":"POST","path":"/m","q":"1"}`
	if response.StatusCode != 201 || response.Header.Get("X-Model") != "m" || string(body) != want {
		t.Errorf("got %d, %v, %s", response.StatusCode, response.Header, body)
	}
}

func TestManyCallersGetTheirOwnAnswersWhileEverythingChanges(t *testing.T) {
	app := newApp(t)
	serve(t, app, shoal.Batch(addOne), shoal.Config{MaxBatchSize: 8, NumReplicas: 2})
	h := handle[int, int](t, app)
	stop := make(chan struct{})
	var calling sync.WaitGroup
	for caller := range 16 {
		calling.Go(func() {
			for i := caller; ; i += 16 {
				select {
				case <-stop:
					return
				default:
				}
				if got, err := h.Call(t.Context(), i); got != i+1 || err != nil {
					t.Errorf("%d gave %d, %v", i, got, err)
					return
				}
			}
		})
	}
	for i := range 20 {
		if err := app.UpdateBackendConfig(t.Context(), "m:v1", func(c *shoal.Config) {
			c.MaxBatchSize, c.NumReplicas, c.MaxConcurrentBatches = 1+i%8, 1+i%3, 1+i%2
		}); err != nil {
			t.Error(err)
		}
		if err := app.ReplaceBackend(t.Context(), "m:v1", shoal.Batch(addOne), shoal.Config{}); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	calling.Wait()
}

func TestLiveQueriesWhoseAnswersDependOnTheBatchAreFound(t *testing.T) {
	app := newApp(t)
	sizes := shoal.Batch(func(_ context.Context, in []string) ([]int, error) {
		return slices.Repeat([]int{len(in)}, len(in)), nil
	})
	serve(t, app, sizes, shoal.Config{MaxBatchSize: 2, BatchWaitTimeout: time.Minute, VerifyOneIn: 1})
	h := handle[string, int](t, app)
	first, second := h.Remote(t.Context(), "a"), h.Remote(t.Context(), "b")
	for _, ref := range []*shoal.Ref[int]{first, second} {
		if n, err := ref.Get(t.Context()); n != 2 || err != nil {
			t.Fatalf("the size of the batch is %d, %v", n, err)
		}
	}
	verified := func() shoal.Verified { return app.Backends()[0].Verified }
	for v := verified(); v.Same+v.Different+v.Skipped+v.Failed < 2; v = verified() { // the test's own time bounds it
		time.Sleep(time.Millisecond)
	}
	if v := verified(); v.Same+v.Failed+v.Skipped > 0 || v.LargestDifference != 1 {
		t.Errorf("got %+v", v)
	}
}

// Callers that leave at the very moment of the answer, and others that wait in
// both ways, all get the answer or the cause of their own context's end.
func TestManyWaitForOneAnswer(t *testing.T) {
	app := newApp(t)
	serve(t, app, shoal.Batch(func(_ context.Context, in []int) ([]int, error) { return in, nil }), shoal.Config{})
	h := handle[int, int](t, app)
	errLeft := errors.New("left")
	for i := range 300 {
		ctx, leave := context.WithCancelCause(t.Context())
		ref := h.Remote(context.Background(), i)
		var waiting sync.WaitGroup
		for range 3 {
			waiting.Go(func() {
				if got, err := ref.Get(context.Background()); got != i || err != nil {
					t.Errorf("query %d got %d, %v", i, got, err)
				}
			})
			waiting.Go(func() {
				if got, err := ref.Get(ctx); !errors.Is(err, errLeft) && (got != i || err != nil) {
					t.Errorf("query %d got %d, %v", i, got, err)
				}
			})
			waiting.Go(func() {
				<-ref.Done()
				if trip := ref.Trip(); trip.BatchSize == 0 {
					t.Errorf("query %d was done before it was answered", i)
				}
			})
		}
		waiting.Go(func() { leave(errLeft) })
		waiting.Wait()
	}
}

func TestAMapThatIsLeftWithdrawsWhatWaits(t *testing.T) {
	app, g := newApp(t), newGate()
	serve(t, app, shoal.Batch(g.predict), shoal.Config{MaxBatchSize: 1})
	h := handle[int, int](t, app)
	g.release <- nil
	for got, err := range h.Map(t.Context(), slices.Values([]int{1, 2, 3, 4}), 4) {
		if got != 1 || err != nil {
			t.Errorf("the first answer is %d, %v", got, err)
		}
		break
	}
	if queued := app.Backends()[0].Queued; queued != 0 { // the second has begun
		t.Errorf("%d queries still wait", queued)
	}
	g.release <- nil
}

func benchmark(b *testing.B, callers int, call func(*shoal.Handle[int, int])) {
	ctx := context.Background()
	app := shoal.New(shoal.Options{})
	defer app.Close(ctx)
	echo := func(_ context.Context, in []int) ([]int, error) { return in, nil }
	must(app.CreateBackend(ctx, "m", shoal.Batch(echo), shoal.Config{MaxBatchSize: 64}))
	must(app.CreateEndpoint("m", shoal.Endpoint{Backend: "m"}))
	h, err := shoal.GetHandle[int, int](app, "m")
	must(err)
	b.ReportAllocs()
	var left atomic.Int64
	left.Store(int64(b.N))
	var calling sync.WaitGroup
	b.ResetTimer()
	for range callers {
		calling.Go(func() {
			for left.Add(-1) >= 0 {
				call(h)
			}
		})
	}
	calling.Wait()
}

func BenchmarkHandle(b *testing.B)               { benchmarkCalls(b, context.Background(), call) }
func BenchmarkHandleRemote(b *testing.B)         { benchmarkCalls(b, context.Background(), remoteAndGet) }
func BenchmarkHandleMayLeave(b *testing.B)       { benchmarkCalls(b, b.Context(), call) }
func BenchmarkHandleRemoteMayLeave(b *testing.B) { benchmarkCalls(b, b.Context(), remoteAndGet) }

func call(ctx context.Context, h *shoal.Handle[int, int]) (int, error) { return h.Call(ctx, 1) }

func remoteAndGet(ctx context.Context, h *shoal.Handle[int, int]) (int, error) {
	return h.Remote(ctx, 1).Get(ctx)
}

func benchmarkCalls(b *testing.B, ctx context.Context, call func(context.Context, *shoal.Handle[int, int]) (int, error)) {
	for _, callers := range []int{1, 64} {
		b.Run(fmt.Sprintf("callers %d", callers), func(b *testing.B) {
			benchmark(b, callers, func(h *shoal.Handle[int, int]) {
				if _, err := call(ctx, h); err != nil {
					b.Error(err)
				}
			})
		})
	}
}

// One caller that keeps many queries in flight: 1,000 a turn.
func BenchmarkHandleMap(b *testing.B) {
	inputs := make([]int, 1000)
	benchmark(b, 1, func(h *shoal.Handle[int, int]) {
		for _, err := range h.Map(context.Background(), slices.Values(inputs), 0) {
			if err != nil {
				b.Error(err)
			}
		}
	})
}
