package serving_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/shoalserve/shoal/batch"
	"github.com/shoalserve/shoal/internal/serving"
)

// census counts the replicas of two versions that live, and the most at a time.
type census struct {
	mu         sync.Mutex
	live, most int
	fail       map[string]int // starts of a version that still go well; absent: all do
}

// counted is a runtime whose replicas answer with their version.
type counted struct {
	*census
	version string
	batched bool
}

type countedInstance struct {
	serving.Instance[string, string]
	*census
	batched bool
	end     sync.Once
}

func (i *countedInstance) Batched() bool { return i.batched }

func (i *countedInstance) Stop(ctx context.Context) error {
	i.end.Do(func() {
		i.mu.Lock()
		defer i.mu.Unlock()
		i.live--
	})
	return i.Instance.Stop(ctx)
}

func (c counted) Start(ctx context.Context, spec serving.ReplicaSpec) (serving.Instance[string, string], error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if left, limited := c.fail[c.version]; limited {
		if left == 0 {
			return nil, &serving.LoadError{Backend: spec.Backend, Type: "Stub", Message: "no weights"}
		}
		c.fail[c.version]--
	}
	c.live++
	c.most = max(c.most, c.live)
	m := &mortal{fn: func(_ context.Context, in []string) ([]string, error) {
		out := make([]string, len(in))
		for i := range in {
			out[i] = c.version
		}
		return out, nil
	}}
	instance, err := m.Start(ctx, spec)
	return &countedInstance{Instance: instance, census: c.census, batched: c.batched}, err
}

func (c counted) model() serving.Model[string, string] {
	return serving.Model[string, string]{Kind: "go", Runtime: c}
}

func surge(n int) *int { return &n }

// rolled is a pool of a version, and a load on it that must get answers.
type rolled struct {
	*serving.Pool[string, string]
	*census
	stop chan struct{}
	load sync.WaitGroup

	mu       sync.Mutex
	errs     []error
	answered map[string]int
}

func newRolled(t *testing.T, config serving.Config) *rolled {
	t.Helper()
	r := &rolled{census: &census{fail: map[string]int{}}, stop: make(chan struct{}), answered: map[string]int{}}
	var err error
	r.Pool, err = serving.NewPool(t.Context(), "m", counted{r.census, "v1", true}.model(), config, serving.Deps{})
	if err != nil {
		t.Fatal(err)
	}
	for range 4 {
		r.load.Go(r.ask)
	}
	t.Cleanup(func() {
		r.halt(t)
		if err := r.Close(context.Background()); err != nil {
			t.Error(err)
		}
		if r.live != 0 {
			t.Errorf("%d replicas are left", r.live)
		}
	})
	r.more(t, "v1")
	return r
}

func (r *rolled) ask() {
	for {
		select {
		case <-r.stop:
			return
		default:
		}
		got, err := r.Do(context.Background(), "", "", 0)
		r.mu.Lock()
		r.answered[got]++
		if err != nil {
			r.errs = append(r.errs, err)
		}
		r.mu.Unlock()
	}
}

func (r *rolled) count(version string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.answered[version]
}

// more waits for answers of a version.
func (r *rolled) more(t *testing.T, version string) {
	t.Helper()
	enough := r.count(version) + 20
	until(t, func() bool { return r.count(version) >= enough }, "answers of "+version)
}

// halt ends the load, none of whose queries may have failed.
func (r *rolled) halt(t *testing.T) {
	t.Helper()
	select {
	case <-r.stop:
	default:
		close(r.stop)
	}
	r.load.Wait()
	if err := errors.Join(r.errs...); err != nil {
		t.Errorf("queries failed: %v", err)
	}
}

func TestAVersionTakesOverReplicaByReplicaWithoutALostQuery(t *testing.T) {
	for _, c := range []struct{ replicas, surge, most int }{{1, 0, 1}, {3, 0, 3}, {3, 1, 4}, {3, 2, 5}, {1, 5, 2}} {
		t.Run(fmt.Sprintf("%d replicas with a surge of %d", c.replicas, c.surge), func(t *testing.T) {
			r := newRolled(t, serving.Config{NumReplicas: c.replicas})
			next := serving.Config{NumReplicas: c.replicas, MaxSurge: surge(c.surge)}
			closed, before := false, r.Version()
			if err := r.Roll(t.Context(), counted{r.census, "v2", true}.model(), next, func() { closed = true }); err != nil {
				t.Fatal(err)
			}
			if r.Version() == before {
				t.Error("it does not count as another version")
			}
			r.more(t, "v2")
			old := r.count("v1")
			r.more(t, "v2")
			if now := r.count("v1"); now > old+4 { // those that were on their way
				t.Errorf("the old version answered %d more", now-old)
			}
			if r.most > c.most || r.live != c.replicas {
				t.Errorf("%d replicas at a time and %d in the end, want %d and %d", r.most, r.live, c.most, c.replicas)
			}
			if closed {
				t.Error("its source is given up while it runs")
			}
			if err := r.Revert(t.Context()); err != nil {
				t.Fatal(err)
			}
			r.more(t, "v1")
			if !closed {
				t.Error("its source is kept though nobody will start it again")
			}
		})
	}
}

func TestAVersionThatCannotStartLeavesTheOldOneInPlace(t *testing.T) {
	for starts, n := range map[int]int{0: 1, 1: 3, 2: 3} {
		t.Run(fmt.Sprintf("after %d of %d", starts, n), func(t *testing.T) {
			r := newRolled(t, serving.Config{NumReplicas: n})
			r.fail["v2"] = starts
			next := serving.Config{NumReplicas: n, MaxSurge: surge(0), MaxBatchSize: 7}
			err := r.Roll(t.Context(), counted{r.census, "v2", true}.model(), next, func() { t.Error("it is closed, though its roll failed") })
			if _, ok := errors.AsType[*serving.LoadError](err); !ok {
				t.Fatalf("got %v", err)
			}
			r.more(t, "v1")
			until(t, func() bool {
				return len(r.Status().Replicas) == n && r.Status().Replicas[n-1].State == serving.StateReady
			}, "the old replicas")
			before := r.count("v2")
			r.more(t, "v1")
			if after := r.count("v2"); after > before+4 {
				t.Errorf("the version that failed answered %d more", after-before)
			}
			if got := r.Config().MaxBatchSize; got == 7 {
				t.Error("the config is the new one")
			}
		})
	}
}

func TestAnOldReplicaThatDiesInARollThatFailsComesBackAsOld(t *testing.T) {
	for name, starting := range map[string]time.Duration{
		"after it has come back as a new one":   0,
		"while it is to come back as a new one": 2 * time.Minute,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				old := &mortal{fn: afterAWhile("v1")}
				var starts atomic.Int32
				var p *serving.Pool[string, string]
				var during any
				next := &mortal{fn: afterAWhile("v2")}
				next.starting(func(ctx context.Context, _ int) error {
					switch starts.Add(1) {
					case 2:
						during = p.Version()
						old.kill(2)
						time.Sleep(time.Minute)
						return errors.New("no weights")
					case 3: // in the place of the one that died
						select {
						case <-time.After(starting):
						case <-ctx.Done():
							return ctx.Err()
						}
					}
					return nil
				})
				config := serving.Config{NumReplicas: 3, MaxBatchSize: 1, MaxSurge: surge(1)}
				var err error
				p, err = serving.NewPool(t.Context(), "m", serving.Model[string, string]{Kind: "go", Runtime: old}, config, serving.Deps{})
				if err != nil {
					t.Fatal(err)
				}
				before := p.Version()
				if err := p.Roll(t.Context(), serving.Model[string, string]{Kind: "go", Runtime: next}, config, nil); err == nil {
					t.Error("it did not fail")
				}
				if during != before || p.Version() != before {
					t.Error("it counts as the version before all replicas run it")
				}
				time.Sleep(10 * time.Minute)
				if n := starts.Load(); n != 3 {
					t.Errorf("%d replicas of the new version were started, want 3: two for the roll, and one that died", n)
				}
				answers := make(map[string]int)
				for _, answer := range askAtOnce(t, p, 30) {
					answers[answer]++
				}
				if diff := cmp.Diff(map[string]int{"v1": 30}, answers); diff != "" {
					t.Errorf("answers (-want +got):\n%s", diff)
				}
				closePool(t, p)
			})
		})
	}
}

// afterAWhile is a model that answers all with one text.
func afterAWhile(text string) batch.Func[string, string] {
	return func(_ context.Context, in []string) ([]string, error) {
		time.Sleep(time.Second)
		out := make([]string, len(in))
		for i := range in {
			out[i] = text
		}
		return out, nil
	}
}

// askAtOnce asks n queries at a time, so that every replica gets some.
func askAtOnce(t *testing.T, p *serving.Pool[string, string], n int) []string {
	t.Helper()
	answers := make([]string, n)
	var asking sync.WaitGroup
	for i := range n {
		asking.Go(func() {
			var err error
			if answers[i], err = p.Do(context.Background(), "", "", 0); err != nil {
				t.Error(err)
			}
		})
	}
	asking.Wait()
	return answers
}

func TestAVersionThatTakesOtherQueriesCannotTakeOver(t *testing.T) {
	r := newRolled(t, serving.Config{NumReplicas: 2})
	next := serving.Config{NumReplicas: 2, MaxSurge: surge(0)}
	err := r.Roll(t.Context(), counted{r.census, "v2", false}.model(), next, nil)
	if serving.Describe(err).Code != serving.InvalidArgument {
		t.Fatalf("got %v", err)
	}
	r.more(t, "v1")
	if n := r.count("v2"); n > 0 {
		t.Errorf("it answered %d queries", n)
	}
}

func TestAConfigThatTakesNewReplicasIsRolledOutToo(t *testing.T) {
	r := newRolled(t, serving.Config{NumReplicas: 1})
	next := serving.Config{NumReplicas: 1, MaxSurge: surge(0), Env: map[string]string{"A": "b"}}
	if err := r.Update(t.Context(), next); err != nil {
		t.Fatal(err)
	}
	r.more(t, "v1")
	if r.most != 1 || r.Config().Env["A"] != "b" {
		t.Errorf("%d replicas at a time, config %+v", r.most, r.Config())
	}
}
