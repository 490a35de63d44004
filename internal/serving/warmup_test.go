package serving_test

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shoalserve/shoal/batch"
	"github.com/shoalserve/shoal/internal/runtime/gofunc"
	"github.com/shoalserve/shoal/internal/serving"
)

// ledger is a model that notes the sizes of its batches, and fails at one of them.
type ledger struct {
	mu     sync.Mutex
	sizes  []int
	failAt int
	closes int
}

func (l *ledger) compute(_ context.Context, in []string) ([]string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sizes = append(l.sizes, len(in))
	if len(in) == l.failAt {
		return nil, errors.New("no room on the device")
	}
	return in, nil
}

func (l *ledger) seen() []int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.sizes)
}

// model is the ledger's, whose replicas compute these queries first.
func (l *ledger) model(queries ...string) serving.Model[string, string] {
	return serving.Model[string, string]{
		Kind: "go",
		Runtime: gofunc.Runtime[string, string]{Batched: true, New: func(context.Context) (batch.Func[string, string], func() error, error) {
			return l.compute, func() error { l.mu.Lock(); defer l.mu.Unlock(); l.closes++; return nil }, nil
		}},
		WarmUp: rehearse(queries...),
	}
}

func rehearse(queries ...string) func(serving.Config, serving.Instance[string, string]) []serving.Rehearsal[string, string] {
	return func(serving.Config, serving.Instance[string, string]) (all []serving.Rehearsal[string, string]) {
		for _, q := range queries {
			all = append(all, serving.Rehearsal[string, string]{Make: func() (string, error) { return q, nil }})
		}
		return all
	}
}

func start(t *testing.T, model serving.Model[string, string], config serving.Config) *serving.Pool[string, string] {
	t.Helper()
	p, err := serving.NewPool(t.Context(), "m", model, config, serving.Deps{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return p
}

func TestAReplicaIsWarmedUpAtEachBatchSize(t *testing.T) {
	for name, test := range map[string]struct {
		config  serving.Config
		queries []string
		cost    func(string) int
		want    []int
	}{
		"powers of two and the most": {serving.Config{MaxBatchSize: 6}, []string{"a"}, nil, []int{1, 2, 4, 6}},
		"the default":                {serving.Config{}, []string{"a"}, nil, []int{1, 2, 4, 8, 16, 32}},
		"every size":                 {serving.Config{MaxBatchSize: 5, WarmUp: &serving.WarmUp{EverySize: true}}, []string{"a"}, nil, []int{1, 2, 3, 4, 5}},
		"sizes that are given":       {serving.Config{MaxBatchSize: 5, WarmUp: &serving.WarmUp{BatchSizes: []int{4, 1, 9, 4}}}, []string{"a"}, nil, []int{1, 4}},
		"one at a time":              {serving.Config{MaxBatchSize: 1}, []string{"a"}, nil, []int{1}},
		"two queries":                {serving.Config{MaxBatchSize: 2}, []string{"a", "b"}, nil, []int{1, 2, 1, 2}},
		"each costs three":           {serving.Config{MaxBatchSize: 8}, []string{"abc"}, func(s string) int { return len(s) }, []int{1, 1, 1, 2}},
		"no queries":                 {serving.Config{}, nil, nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			l := &ledger{}
			m := l.model(test.queries...)
			m.Cost = test.cost
			p := start(t, m, test.config)
			if got := l.seen(); !slices.Equal(got, test.want) {
				t.Errorf("it computed batches of %v, want %v", got, test.want)
			}
			if s := p.Status().Stats; s.Admitted != 0 || s.Batches != 0 {
				t.Errorf("they were counted: %+v", s)
			}
		})
	}
}

func TestAVersionThatFailsItsWarmUpGetsNoQueryAndTheOldOneStays(t *testing.T) {
	r := newRegistry(t)
	deploy(t, r, "m", says("old"))
	endpoint(t, r, "m", "m")
	l := &ledger{failAt: 4}
	_, err := r.Deploy(t.Context(), "m", true, func(ctx context.Context) (serving.Backend, error) {
		_, err := serving.NewPool(ctx, "m", l.model("a"), serving.Config{MaxBatchSize: 8, NumReplicas: 2}, serving.Deps{})
		return nil, err
	})
	load, ok := errors.AsType[*serving.LoadError](err)
	if !ok || load.Type != "WarmUpFailed" || !strings.Contains(load.Message, "failed at batch size 4: no room on the device") {
		t.Errorf("the error is %#v", err)
	}
	wantAnswer(t, r, "m", "qold")
	if l.closes != 2 {
		t.Errorf("%d of 2 replicas were closed", l.closes)
	}
}

func TestAnUpdateWhoseReplicasFailTheirWarmUpChangesNothing(t *testing.T) {
	l := &ledger{}
	p := start(t, l.model("a"), serving.Config{MaxBatchSize: 2})
	l.failAt = 1
	err := p.Update(t.Context(), serving.Config{MaxBatchSize: 2, NumReplicas: 2})
	if load, ok := errors.AsType[*serving.LoadError](err); !ok || load.Type != "WarmUpFailed" {
		t.Errorf("the error is %v", err)
	}
	if s := p.Status(); s.Config.NumReplicas != 1 || len(s.Replicas) != 1 || s.State != serving.StateReady {
		t.Errorf("its status is %+v", s)
	}
}

func TestALargerMaximumIsWarmedUpFor(t *testing.T) {
	m := &mortal{}
	warm := &serving.WarmUp{Requests: []serving.WarmUpRequest{{}}}
	p := start(t, serving.Model[string, string]{Kind: "go", Runtime: m, WarmUp: rehearse("a")}, serving.Config{MaxBatchSize: 2, WarmUp: warm})
	started := 0
	m.starting(func(context.Context, int) error { started++; return nil })
	for _, step := range []struct{ size, want int }{{1, 0}, {4, 1}, {3, 1}} {
		if err := p.Update(t.Context(), serving.Config{MaxBatchSize: step.size, WarmUp: warm}); err != nil {
			t.Fatal(err)
		}
		if started != step.want {
			t.Errorf("after max_batch_size %d, %d replicas were started, want %d", step.size, started, step.want)
		}
	}
}

func TestAWarmUpHasItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := says("")
		m.fn = func(ctx context.Context, in []string) ([]string, error) {
			<-ctx.Done() // until its replica is stopped
			return in, nil
		}
		model := (&ledger{}).model("a")
		model.Runtime = gofunc.Runtime[string, string]{Batched: true, New: func(context.Context) (batch.Func[string, string], func() error, error) {
			return m.fn, nil, nil
		}}
		began := time.Now()
		_, err := serving.NewPool(t.Context(), "m", model, serving.Config{WarmUp: &serving.WarmUp{Timeout: serving.Duration(time.Minute)}}, serving.Deps{})
		if err == nil || !strings.Contains(err.Error(), "it took longer than 1m0s") {
			t.Errorf("the error is %v", err)
		}
		if took := time.Since(began); took < time.Minute || took > 2*time.Minute {
			t.Errorf("it took %v", took)
		}
	})
}

func TestAReplicaThatDiesInItsWarmUpIsAFailedStart(t *testing.T) {
	m := &mortal{}
	stuck := make(chan struct{})
	m.computes(func(ctx context.Context, in []string) ([]string, error) {
		close(stuck)
		<-ctx.Done()
		return nil, ctx.Err()
	})
	go func() {
		<-stuck
		m.kill(0)
	}()
	_, err := serving.NewPool(t.Context(), "m", serving.Model[string, string]{Kind: "go", Runtime: m, WarmUp: rehearse("a")}, serving.Config{}, serving.Deps{})
	if load, ok := errors.AsType[*serving.LoadError](err); !ok || load.Type != "WarmUpFailed" || !strings.Contains(load.Message, "killed by the test") {
		t.Errorf("the error is %v", err)
	}
}

func TestARestartedReplicaIsWarmedUpToo(t *testing.T) {
	m := &mortal{}
	fail := true
	tried := make(chan int, 10)
	p := start(t, serving.Model[string, string]{Kind: "go", Runtime: m, WarmUp: rehearse("a")}, serving.Config{MaxBatchSize: 1})
	m.computes(func(_ context.Context, in []string) ([]string, error) {
		tried <- len(in)
		if fail {
			fail = false
			return nil, errors.New("not yet")
		}
		return in, nil
	})
	m.kill(0)
	receive(t, tried, "the warm-up that fails")
	receive(t, tried, "the one after it")
	until(t, func() bool { return p.Status().State == serving.StateReady }, "the replica to be ready")
	if s := p.Status(); s.Restarts != 2 { // its death, and the start that failed
		t.Errorf("its status is %+v", s)
	}
}

func TestExamplesOfEndpointsAreWhatABackendIsWarmedUpWith(t *testing.T) {
	r := newRegistry(t)
	deploy(t, r, "m", says(""))
	spec := serving.EndpointSpec{Backend: "m", Methods: []string{"POST"}, Example: &serving.Example{Text: "q"}}
	if _, err := r.CreateEndpoint("e", spec); err != nil {
		t.Fatal(err)
	}
	if _, err := r.CreateEndpoint("none", serving.EndpointSpec{Backend: "m"}); err != nil {
		t.Fatal(err)
	}
	none := serving.Config{WarmUp: &serving.WarmUp{Requests: []serving.WarmUpRequest{}}}
	some := serving.Config{WarmUp: &serving.WarmUp{EverySize: true}}
	for name, got := range map[string]serving.Config{
		"of the registry": r.WarmedUp("m", some),
		"of specs":        some.WarmedUpFor("m", map[string]serving.EndpointSpec{"e": spec, "other": {Backend: "n", Example: &serving.Example{}}}),
	} {
		w := got.WarmUp
		if w == nil || len(w.Requests) != 1 || w.Requests[0].Text != "q" || w.Requests[0].Method != "POST" || !w.EverySize {
			t.Errorf("%s: %+v", name, w)
		}
	}
	if w := r.WarmedUp("m", none).WarmUp; len(w.Requests) != 0 {
		t.Errorf("with an empty list: %+v", w)
	}
	if some.WarmUp.Requests != nil {
		t.Error("the config that was given changed")
	}
}

func TestWarmUpsThatCannotBeAreRefused(t *testing.T) {
	for raw, want := range map[string]string{
		`{"requests": [{"query": {"n": 1}, "kwargs": {"n": 1}}]}`: "requests[0] has data or kwargs",
		`{"requests": [{}, {"json": 1, "text": "a"}]}`:            "requests[1]: an example has json or text, not both",
		`{"batch_sizes": [0]}`:                                    "batch_sizes must be at least 1, got 0",
		`{"batch_sizes": [1], "every_size": true}`:                "give batch_sizes or every_size, not both",
		`{"timeout": -1}`:                                         "timeout must not be negative",
		`{"sizes": [1]}`:                                          `unknown field "sizes"`,
		`{"batch_sizes": "all"}`:                                  "batch_sizes cannot be a string",
		`true`:                                                    "it cannot be a bool",
	} {
		_, err := serving.DecodeConfig(serving.Config{}, []byte(`{"warm_up": `+raw+`}`))
		wantCode(t, err, serving.InvalidArgument)
		if err == nil || !strings.Contains(err.Error(), "config: warm_up: "+want) {
			t.Errorf("%s: %v", raw, err)
		}
	}
	base, err := serving.DecodeConfig(serving.Config{}, []byte(`{"warm_up": {"requests": [{"query": {"n": 1}}], "every_size": true}}`))
	if err != nil {
		t.Fatal(err)
	}
	next, err := serving.DecodeConfig(base, []byte(`{"warm_up": {"requests": []}}`))
	if err != nil || next.WarmUp.EverySize || len(next.WarmUp.Requests) != 0 || !base.WarmUp.EverySize {
		t.Errorf("a change made %+v of %+v, %v", next.WarmUp, base.WarmUp, err)
	}
	text, err := json.Marshal(map[string]any{"warm_up": base.WarmUp})
	if err != nil {
		t.Fatal(err)
	}
	if again, err := serving.DecodeConfig(serving.Config{}, text); err != nil || len(again.WarmUp.Requests) != 1 {
		t.Errorf("%s became %+v, %v", text, again.WarmUp, err)
	}
}
