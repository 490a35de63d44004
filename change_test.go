package shoal_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/shoalserve/shoal"
)

// load are callers of an endpoint's handles that ask without pause until it is stopped:
// some call, some use references. Each answer must be that of its query.
type load struct {
	stopped  chan struct{}
	callers  sync.WaitGroup
	answered atomic.Int64
	asked    atomic.Int64

	mu   sync.Mutex
	errs []error
}

func newLoad(t *testing.T, app *shoal.App) *load {
	t.Helper()
	l := &load{stopped: make(chan struct{})}
	h := handle[int, int](t, app)
	ask := []func(context.Context, int) (int, error){
		h.Call,
		func(ctx context.Context, n int) (int, error) { return h.Remote(ctx, n).Get(ctx) },
		h.WithCaller("gold").WithPriority(2).Call,
		h.WithCaller("other").Call,
	}
	for i := range 2 * len(ask) {
		l.callers.Go(func() { l.run(ask[i%len(ask)]) })
	}
	t.Cleanup(l.stop)
	return l
}

func (l *load) run(ask func(context.Context, int) (int, error)) {
	for {
		select {
		case <-l.stopped:
			return
		default:
		}
		n := int(l.asked.Add(1))
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		got, err := ask(ctx, n)
		cancel()
		if err == nil && got != 2*n {
			err = fmt.Errorf("query %d got %d", n, got)
		}
		if err != nil {
			l.mu.Lock()
			l.errs = append(l.errs, err)
			l.mu.Unlock()
			return
		}
		l.answered.Add(1)
	}
}

// more waits for queries that are asked from now on; fewer come if some fail.
func (l *load) more(t *testing.T) {
	t.Helper()
	for enough := l.answered.Load() + 200; l.answered.Load() < enough && l.failures() == nil; {
		select {
		case <-t.Context().Done():
			t.Fatal(context.Cause(t.Context()))
		case <-time.After(time.Millisecond):
		}
	}
}

func (l *load) failures() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return errors.Join(l.errs...)
}

func (l *load) stop() {
	select {
	case <-l.stopped:
	default:
		close(l.stopped)
	}
	l.callers.Wait()
}

// doubling is a model whose versions all answer alike.
func doubling() *shoal.GoModel[int, int] {
	return shoal.Batch(func(_ context.Context, in []int) ([]int, error) {
		out := make([]int, len(in))
		for i, n := range in {
			out[i] = 2 * n
		}
		return out, nil
	})
}

// configs are changes of each key of a backend's config.
var configs = map[string]func(*shoal.Config){
	"max_batch_size up":       func(c *shoal.Config) { c.MaxBatchSize = 16 },
	"max_batch_size down":     func(c *shoal.Config) { c.MaxBatchSize = 1 },
	"batch_wait_timeout":      func(c *shoal.Config) { c.BatchWaitTimeout = time.Millisecond },
	"no batch_wait_timeout":   func(c *shoal.Config) { c.BatchWaitTimeout = 0 },
	"latency_slo":             func(c *shoal.Config) { c.LatencySLO = 50 * time.Millisecond },
	"leave_at_once":           func(c *shoal.Config) { c.LeaveAtOnce = true },
	"num_replicas up":         func(c *shoal.Config) { c.NumReplicas = 4 },
	"num_replicas down":       func(c *shoal.Config) { c.NumReplicas = 1 },
	"max_queued":              func(c *shoal.Config) { c.MaxQueued = 100 },
	"max_queued_bytes":        func(c *shoal.Config) { c.MaxQueuedBytes = 1 << 20 },
	"max_concurrent_batches":  func(c *shoal.Config) { c.MaxConcurrentBatches = 2 },
	"timeout":                 func(c *shoal.Config) { c.Timeout = 30 * time.Second },
	"expose_traceback":        func(c *shoal.Config) { c.ExposeTraceback = true },
	"batch_timeout":           func(c *shoal.Config) { c.BatchTimeout = 20 * time.Second },
	"no batch_timeout":        func(c *shoal.Config) { c.BatchTimeout = 0 },
	"queue_time_target":       func(c *shoal.Config) { c.QueueTimeTarget = 10 * time.Second },
	"compute_late":            func(c *shoal.Config) { c.ComputeLate = true },
	"caller_weights":          func(c *shoal.Config) { c.CallerWeights = map[string]float64{"gold": 4, "*": 1} },
	"isolate_callers":         func(c *shoal.Config) { c.IsolateCallers = true },
	"max_replicas":            func(c *shoal.Config) { c.MaxReplicas = 8 },
	"scale_up_queue_time":     func(c *shoal.Config) { c.ScaleUpQueueTime = time.Millisecond },
	"scale_down_delay":        func(c *shoal.Config) { c.ScaleDownDelay = time.Second },
	"idle_timeout":            func(c *shoal.Config) { c.IdleTimeout = time.Hour },
	"on_batch_error: fail":    func(c *shoal.Config) { c.OnBatchError, c.VerifyOneIn = shoal.FailAll, 0 },
	"on_batch_error: isolate": func(c *shoal.Config) { c.OnBatchError = shoal.Isolate },
	"verify_one_in":           func(c *shoal.Config) { c.OnBatchError, c.VerifyOneIn = shoal.Isolate, 2 },
	"verify_compare":          func(c *shoal.Config) { c.VerifyCompare = &shoal.Compare{Tolerance: 0.1} },
}

// opposites are the changes that take another back, made right after it.
var opposites = map[string]string{
	"max_batch_size up": "max_batch_size down", "batch_wait_timeout": "no batch_wait_timeout", "num_replicas up": "num_replicas down",
	"batch_timeout": "no batch_timeout", "on_batch_error: fail": "on_batch_error: isolate",
}

func TestEachKeyOfAConfigIsChangedUnderLoad(t *testing.T) {
	for field := range reflect.TypeFor[shoal.Config]().Fields() {
		if !slices.ContainsFunc(slices.Collect(maps.Values(configs)), func(change func(*shoal.Config)) bool {
			var c shoal.Config
			change(&c)
			return !reflect.ValueOf(c).FieldByIndex(field.Index).IsZero()
		}) {
			t.Errorf("no change of %s", field.Name)
		}
	}
}

func TestNoChangeLosesAQueryOfAHandle(t *testing.T) {
	app := newApp(t)
	serve(t, app, doubling(), shoal.Config{MaxBatchSize: 4})
	ctx := t.Context()
	l := newLoad(t, app)
	step := func(what string, change func() error) {
		t.Helper()
		l.more(t)
		if err := change(); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		l.more(t)
		if err := l.failures(); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	step("redeploy", func() error { return app.ReplaceBackend(ctx, "m:v1", doubling(), shoal.Config{MaxBatchSize: 8}) })
	step("another version", func() error { return app.CreateBackend(ctx, "m:v2", doubling(), shoal.Config{NumReplicas: 2}) })
	step("half of the traffic", func() error { return app.SetTraffic("m", shoal.Traffic{"m:v1": 0.5, "m:v2": 0.5}) })
	step("shadow", func() error { return app.ShadowTraffic("m", "m:v1", 0.5) })
	step("all of the traffic", func() error { return app.SetTraffic("m", shoal.Traffic{"m:v2": 1}) })
	step("no shadow", func() error { return app.ShadowTraffic("m", "m:v1", 0) })
	step("delete", func() error { return app.DeleteBackend(ctx, "m:v1") })
	for _, what := range slices.Sorted(maps.Keys(configs)) {
		for _, change := range []string{what, opposites[what]} {
			if config := configs[change]; config != nil {
				step(change, func() error { return app.UpdateBackendConfig(ctx, "m:v2", config) })
			}
		}
	}
	l.stop()
	if err := l.failures(); err != nil {
		t.Error(err)
	}
}

func TestAConfigThatWasRefusedChangesNothing(t *testing.T) {
	app := newApp(t)
	serve(t, app, doubling(), shoal.Config{CallerWeights: map[string]float64{"a": 2}, VerifyOneIn: 2, VerifyCompare: &shoal.Compare{Tolerance: 0.1}})
	before := app.Backends()[0].Config
	err := app.UpdateBackendConfig(t.Context(), "m:v1", func(c *shoal.Config) {
		c.CallerWeights["a"] = -5
		c.VerifyCompare.Tolerance = -1
	})
	if !errors.Is(err, shoal.ErrInvalidArgument) {
		t.Errorf("got %v", err)
	}
	if after := app.Backends()[0].Config; !reflect.DeepEqual(after, before) || after.CallerWeights["a"] != 2 {
		t.Errorf("%+v is in force", after)
	}
}
