package serving_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/shoalserve/shoal/batch"
	"github.com/shoalserve/shoal/internal/serving"
)

// patience is how long a test waits for what must happen.
const patience = time.Minute

// mortal is a runtime whose replicas a test can let die, or keep from starting.
type mortal struct {
	mu      sync.Mutex
	alive   map[int]*mortalInstance                    // by index
	onStart func(ctx context.Context, index int) error // nil: starts at once
	fn      batch.Func[string, string]                 // nil: answers with the query
}

type mortalInstance struct {
	*batch.Runner[string, string]
	exited chan struct{}
}

func (i *mortalInstance) Batched() bool           { return true }
func (i *mortalInstance) PID() int                { return 1 }
func (i *mortalInstance) Exited() <-chan struct{} { return i.exited }
func (i *mortalInstance) Err() error              { return errors.New("killed by the test") }

func (m *mortal) Start(ctx context.Context, spec serving.ReplicaSpec) (serving.Instance[string, string], error) {
	m.mu.Lock()
	onStart := m.onStart
	m.mu.Unlock()
	if onStart != nil {
		if err := onStart(ctx, spec.Index); err != nil {
			return nil, &serving.LoadError{Backend: spec.Backend, Type: "Stub", Message: err.Error(), Err: err}
		}
	}
	i := &mortalInstance{batch.NewRunner(spec.Config.MaxConcurrentBatches, m.compute), make(chan struct{})}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.alive == nil {
		m.alive = make(map[int]*mortalInstance)
	}
	m.alive[spec.Index] = i
	return i, nil
}

// kill ends the replica of that index, as a crash does.
func (m *mortal) kill(index int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	close(m.alive[index].exited)
}

func (m *mortal) starting(f func(ctx context.Context, index int) error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.onStart = f
}

func (m *mortal) compute(ctx context.Context, in []string) ([]string, error) {
	m.mu.Lock()
	fn := m.fn
	m.mu.Unlock()
	if fn == nil {
		return in, nil
	}
	return fn(ctx, in)
}

func (m *mortal) computes(fn batch.Func[string, string]) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fn = fn
}

func (m *mortal) pool(t *testing.T, config serving.Config) *serving.Pool[string, string] {
	t.Helper()
	p, err := serving.NewPool(t.Context(), "m", serving.Model[string, string]{Kind: "go", Runtime: m}, config, serving.Deps{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := p.Close(ctx); err != nil {
			t.Errorf("closing the pool: %v", err)
		}
	})
	return p
}

// until waits for what a replica's own goroutine does.
func until(t *testing.T, ready func() bool, what string) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ready(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

func receive[T any](t *testing.T, from <-chan T, what string) (v T) {
	t.Helper()
	select {
	case v = <-from:
	case <-time.After(patience):
		t.Fatalf("waited in vain for %s", what)
	}
	return v
}

func TestACloseBreaksOffAnUpdateWhoseReplicasDoNotStart(t *testing.T) {
	m := &mortal{}
	p := m.pool(t, serving.Config{})
	starting := make(chan struct{})
	m.starting(func(ctx context.Context, _ int) error {
		close(starting)
		<-ctx.Done()
		return ctx.Err()
	})
	updated, closed := make(chan error, 1), make(chan error, 1)
	go func() { updated <- p.Update(context.Background(), serving.Config{NumReplicas: 2}) }()
	<-starting
	go func() { closed <- p.Close(t.Context()) }()
	if err := receive(t, closed, "the close"); err != nil {
		t.Error(err)
	}
	if err := receive(t, updated, "the update"); !errors.Is(err, batch.ErrDraining) {
		t.Errorf("the update said %v", err)
	}
}

func TestACloseThatRunsOutOfTimeDoesNotWaitForAnUpdateThatDrains(t *testing.T) {
	m := &mortal{}
	p := m.pool(t, serving.Config{})
	release, computing, answered := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	m.computes(func(_ context.Context, in []string) ([]string, error) {
		close(computing)
		<-release
		return in, nil
	})
	q := &batch.Query[string, string]{Done: func(q *batch.Query[string, string]) { answered <- q.Err }}
	if err := p.SubmitQuery(q); err != nil {
		t.Fatal(err)
	}
	<-computing
	updated := make(chan error, 1)
	go func() { updated <- p.Update(context.Background(), serving.Config{MaxConcurrentBatches: 2}) }()
	until(t, func() bool { return p.Config().MaxConcurrentBatches == 2 }, "the new replica")

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	closed := make(chan error, 1)
	go func() { closed <- p.Close(ctx) }()
	if err := receive(t, closed, "the close"); !errors.Is(err, context.Canceled) {
		t.Errorf("the close, which had no time, said %v", err)
	}
	if err := receive(t, updated, "the update"); err == nil {
		t.Error("the update says that the old replica ended well")
	}
	defer close(release)
	if err := receive(t, answered, "the answer"); !errors.Is(err, batch.ErrStopped) {
		t.Errorf("the query that was computed when nobody had time any more got %v", err)
	}
}

func TestReplicasThatDoNotWorkAreTheFirstToGo(t *testing.T) {
	m := &mortal{}
	p := m.pool(t, serving.Config{NumReplicas: 2})
	m.starting(func(context.Context, int) error { return errors.New("broken for good") })
	m.kill(0)
	until(t, func() bool { return p.Status().Replicas[0].State == serving.StateFailed }, "the death of replica 0")
	if err := p.Update(t.Context(), serving.Config{NumReplicas: 1}); err != nil {
		t.Fatal(err)
	}
	if s := p.Status(); s.State != serving.StateReady || len(s.Replicas) != 1 || s.Replicas[0].Index != 1 {
		t.Errorf("of a dead and a working replica these are left: %+v, backend %s", s.Replicas, s.State)
	}
	if s := p.Status(); s.Restarts == 0 {
		t.Error("the restarts of the replica that is gone are forgotten")
	}
}

func TestADeployThatWaitsForAnotherOfItsNameCanGiveUp(t *testing.T) {
	r := newRegistry(t)
	building, release := make(chan struct{}), make(chan struct{})
	first := make(chan error, 1)
	go func() {
		_, err := r.Deploy(context.Background(), "m", false, func(ctx context.Context) (serving.Backend, error) {
			close(building)
			<-release
			return says("1").build("m", serving.Config{})(ctx)
		})
		first <- err
	}()
	<-building
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	waited := make(chan error, 3)
	go func() {
		_, err := r.Deploy(ctx, "m", true, says("2").build("m", serving.Config{}))
		waited <- err
	}()
	go func() { waited <- r.Delete(ctx, "m") }()
	go func() { waited <- r.UpdateConfig(ctx, "m", []byte(`{"num_replicas": 2}`)) }()
	for range cap(waited) {
		if err := receive(t, waited, "a change that is to give up"); !errors.Is(err, context.Canceled) {
			t.Errorf("a change whose caller left said %v", err)
		}
	}
	close(release)
	if err := receive(t, first, "the first deploy"); err != nil {
		t.Error(err)
	}
}

// slow is a backend whose Close reports whether it had time.
type slow struct {
	serving.Backend
	closed chan error
}

func (s slow) Close(ctx context.Context) error {
	s.closed <- ctx.Err()
	return s.Backend.Close(ctx)
}

func TestACloseWaitsForABackendThatIsJustBeingReplaced(t *testing.T) {
	for range 500 {
		r := serving.NewRegistry()
		old := make(chan error, 1)
		_, err := r.Deploy(t.Context(), "m", false, func(ctx context.Context) (serving.Backend, error) {
			b, err := says("1").build("m", serving.Config{})(ctx)
			return slow{b, old}, err
		})
		if err != nil {
			t.Fatal(err)
		}
		begin := make(chan struct{})
		replaced := make(chan error, 1)
		go func() {
			<-begin
			_, err := r.Deploy(context.Background(), "m", true, says("2").build("m", serving.Config{}))
			replaced <- err
		}()
		close(begin)
		if err := r.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		select {
		case err := <-old:
			if err != nil {
				t.Fatalf("the old version had no time to finish: %v", err)
			}
		default:
			t.Fatal("Close returned before the old version was closed")
		}
		<-replaced
	}
}
