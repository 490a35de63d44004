package serving_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shoalserve/shoal/batch"
	"github.com/shoalserve/shoal/internal/serving"
)

func TestAReplicaThatFailsAgainAndAgainIsACrashLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &mortal{}
		p := m.pool(t, serving.Config{})
		m.starting(func(context.Context, int) error { return errors.New("no memory on the card") })
		m.kill(0)
		synctest.Wait()
		if s := p.Status(); s.State != serving.StateFailed {
			t.Fatalf("after one failure it is %s", s.State)
		}
		waits := sent(p, "early") // while it restarts normally, queries wait
		synctest.Wait()
		if s := p.Status(); s.Queued != 1 {
			t.Errorf("%d queries wait", s.Queued)
		}
		time.Sleep(10 * time.Second)
		if s := p.Status(); s.State != serving.StateCrashLooping || s.Restarts < 5 {
			t.Errorf("after %d failures it is %s", s.Restarts, s.State)
		}
		for _, err := range []error{<-waits, <-sent(p, "late")} {
			problem := serving.Describe(err)
			if problem.Code != serving.Unavailable || problem.Status != 503 || problem.Header.Get("Retry-After") == "" {
				t.Errorf("a query got %v, %v", err, problem.Header)
			}
			for _, part := range []string{"no memory on the card", "shoal logs m"} {
				if !strings.Contains(problem.Message, part) {
					t.Errorf("%q does not say %q", problem.Message, part)
				}
			}
		}
		before := p.Status().Restarts
		time.Sleep(10 * time.Minute)
		if n := p.Status().Restarts - before; n < 5 || n > 25 { // every 30 to 90 s
			t.Errorf("%d attempts in ten minutes", n)
		}
		m.starting(nil)
		time.Sleep(2 * time.Minute)
		if err := <-sent(p, "again"); err != nil {
			t.Errorf("once it starts a query got %v", err)
		}
		if s := p.Status(); s.State != serving.StateReady || s.Replicas[0].Error != "" {
			t.Errorf("once it starts it is %+v", s)
		}
	})
}

func TestOneReplicaInACrashLoopDoesNotStopTheOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &mortal{}
		p := m.pool(t, serving.Config{NumReplicas: 2})
		m.starting(func(context.Context, int) error { return errors.New("broken") })
		m.kill(0)
		time.Sleep(time.Minute)
		if s := p.Status(); s.Replicas[0].State != serving.StateCrashLooping || s.State != serving.StateReady {
			t.Errorf("status %+v", s)
		}
		if err := <-sent(p, "q"); err != nil {
			t.Error(err)
		}
		m.kill(1)
		time.Sleep(time.Minute)
		if err := <-sent(p, "q"); serving.Describe(err).Code != serving.Unavailable {
			t.Errorf("with two crash loops a query got %v", err)
		}
		// New replicas take the place of hopeless ones, and queries are taken again.
		m.starting(nil)
		if err := p.Update(t.Context(), serving.Config{NumReplicas: 2, MaxConcurrentBatches: 2}); err != nil {
			t.Fatal(err)
		}
		if err := <-sent(p, "q"); err != nil {
			t.Error(err)
		}
	})
}

func TestAReplicaThatAnswersBetweenItsDeathsIsNoCrashLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &mortal{}
		p := m.pool(t, serving.Config{})
		for range 20 {
			if err := <-sent(p, "q"); err != nil {
				t.Fatal(err)
			}
			m.kill(0)
			synctest.Wait()
			if s := p.Status().State; s != serving.StateFailed {
				t.Fatalf("it is %s", s)
			}
			time.Sleep(200 * time.Millisecond)
		}
		for range 5 { // of no use at all
			m.kill(0)
			time.Sleep(5 * time.Second)
		}
		m.kill(0)
		synctest.Wait()
		if s := p.Status().State; s != serving.StateCrashLooping {
			t.Errorf("it is %s", s)
		}
	})
}

func TestReadinessSaysWhichReplicaFailedAndWhy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &mortal{}
		r := serving.NewRegistry()
		_, err := r.Deploy(t.Context(), "m", false, func(ctx context.Context) (serving.Backend, error) {
			model := serving.Model[string, string]{Kind: "go", Runtime: m}
			codec := serving.Codec[string, string]{
				Decode: func(*serving.Call) (string, error) { return "", nil },
				Encode: func(*serving.Call, string) (serving.Response, error) { return serving.Response{}, nil },
			}
			return serving.NewTypedPool(ctx, "m", model, codec, serving.Config{}, serving.Deps{})
		})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.CreateEndpoint("e", serving.EndpointSpec{Backend: "m", Route: "/e"}); err != nil {
			t.Fatal(err)
		}
		prober := serving.NewProber(r)
		if err := prober.Ready(t.Context()); err != nil {
			t.Error(err)
		}
		m.starting(func(context.Context, int) error { return errors.New("the weights are gone") })
		m.kill(0)
		time.Sleep(time.Minute)
		err = prober.Ready(t.Context())
		for _, part := range []string{`backend "m" is crash_looping`, "replica 0", "the weights are gone"} {
			if err == nil || !strings.Contains(err.Error(), part) {
				t.Errorf("%v does not say %q", err, part)
			}
		}
		if err := r.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
}

// talkative is a runtime whose instances are born dead and have last words.
type talkative struct{ mortal }

type lastWords struct{ *mortalInstance }

func (lastWords) Diagnosis() string { return "Traceback: the last line" }

func (m *talkative) Start(ctx context.Context, spec serving.ReplicaSpec) (serving.Instance[string, string], error) {
	i, err := m.mortal.Start(ctx, spec)
	if err != nil {
		return nil, err
	}
	return lastWords{i.(*mortalInstance)}, nil
}

func TestTheLogOfAFailureHasTheLastWords(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, logged := &talkative{}, new(bytes.Buffer)
		model := serving.Model[string, string]{Kind: "go", Runtime: m}
		p, err := serving.NewPool(t.Context(), "m", model, serving.Config{}, serving.Deps{Logger: slog.New(slog.NewTextHandler(logged, nil))})
		if err != nil {
			t.Fatal(err)
		}
		m.kill(0)
		synctest.Wait()
		closePool(t, p)
		if text := logged.String(); !strings.Contains(text, "the last line") || !strings.Contains(text, "reason=died") {
			t.Errorf("logged: %s", text)
		}
	})
}

// fragile is a runtime whose instances end with a query "poison", as workers do that
// crash.
type fragile struct{}

type fragileInstance struct {
	exited chan struct{}

	mu  sync.Mutex
	has []*batch.Batch[string, string] // since it is dead
}

func (fragile) Start(context.Context, serving.ReplicaSpec) (serving.Instance[string, string], error) {
	return &fragileInstance{exited: make(chan struct{})}, nil
}

func (i *fragileInstance) Batched() bool           { return true }
func (i *fragileInstance) PID() int                { return 1 }
func (i *fragileInstance) Exited() <-chan struct{} { return i.exited }
func (i *fragileInstance) Err() error              { return errors.New("killed by a query") }

func (i *fragileInstance) Run(b *batch.Batch[string, string]) {
	i.mu.Lock()
	dies := len(i.has) == 0 && slices.Contains(b.Inputs(), "poison")
	dead := dies || len(i.has) > 0
	if dead {
		i.has = append(i.has, b)
	}
	i.mu.Unlock()
	switch {
	case dies:
		close(i.exited)
	case !dead:
		go b.Finish(b.Inputs(), nil) // ends with the answers
	}
}

func (i *fragileInstance) Stop(context.Context) error {
	i.mu.Lock()
	has := i.has
	i.mu.Unlock()
	for _, b := range has {
		b.Lost(i.Err())
	}
	return nil
}

func TestPoisonIsNoCrashLoopWhileTheModelAnswersOthers(t *testing.T) {
	for _, replicas := range []int{1, 2} {
		synctest.Test(t, func(t *testing.T) {
			p, err := serving.NewPool(t.Context(), "m", serving.Model[string, string]{Kind: "go", Runtime: fragile{}},
				serving.Config{MaxBatchSize: 1, NumReplicas: replicas}, serving.Deps{})
			if err != nil {
				t.Fatal(err)
			}
			for range 10 {
				if err := <-sent(p, "well"); err != nil {
					t.Errorf("an innocent query got %v", err)
				}
				for range 10 { // one after the other
					if err := <-sent(p, "poison"); !strings.Contains(fmt.Sprint(err), "2 replicas ended") {
						t.Errorf("a guilty query got %v", err)
					}
				}
			}
			synctest.Wait()
			if s := p.Status(); s.Restarts < 199 || s.State == serving.StateCrashLooping {
				t.Errorf("after %d restarts it is %s", s.Restarts, s.State)
			}
			began := time.Now()
			if err := <-sent(p, "well"); err != nil || time.Since(began) > time.Second {
				t.Errorf("after %v an innocent query got %v", time.Since(began), err)
			}
			closePool(t, p)
		})
	}
}

func TestAModelThatDiesOfEveryQueryIsACrashLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, err := serving.NewPool(t.Context(), "m", serving.Model[string, string]{Kind: "go", Runtime: fragile{}},
			serving.Config{MaxBatchSize: 1}, serving.Deps{})
		if err != nil {
			t.Fatal(err)
		}
		if err := <-sent(p, "well"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		loops := false
		for began := time.Now(); !loops && time.Since(began) < 5*time.Minute; time.Sleep(time.Second) {
			loops = serving.Describe(<-sent(p, "poison")).Code == serving.Unavailable
		}
		if s := p.Status(); !loops || s.State != serving.StateCrashLooping {
			t.Errorf("a model that answers nothing any more is %s after %d restarts", s.State, s.Restarts)
		}
		closePool(t, p)
	})
}
