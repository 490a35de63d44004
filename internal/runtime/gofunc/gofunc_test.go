package gofunc

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/shoalserve/shoal/batch"
	"github.com/shoalserve/shoal/internal/serving"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func echo(_ context.Context, in []int) ([]int, error) { return in, nil }

// start starts a replica of fn, with what is to be closed after it.
func start(t *testing.T, fn batch.Func[int, int], closer func() error) serving.Instance[int, int] {
	t.Helper()
	r := Runtime[int, int]{Batched: true, New: func(context.Context) (batch.Func[int, int], func() error, error) {
		return fn, closer, nil
	}}
	i, err := r.Start(t.Context(), serving.ReplicaSpec{Backend: "m"})
	if err != nil {
		t.Fatal(err)
	}
	return i
}

func TestACloseThatPanicsIsAnError(t *testing.T) {
	i := start(t, echo, func() error { panic("no handle") })
	err := i.Stop(t.Context())
	if p, ok := errors.AsType[*batch.PanicError](err); !ok || p.Where != "close" || !strings.Contains(err.Error(), "no handle") {
		t.Errorf("got %v", err)
	}
}

func TestACloseThatFailsIsSaid(t *testing.T) {
	broken := errors.New("disk full")
	if err := start(t, echo, func() error { return broken }).Stop(t.Context()); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
}

func TestAModelThatDoesNotReturnInTimeIsClosedWhenItDoes(t *testing.T) {
	computing, release, closed := make(chan struct{}), make(chan struct{}), make(chan struct{})
	var returned atomic.Bool
	i := start(t, func(_ context.Context, in []int) ([]int, error) {
		close(computing)
		<-release
		returned.Store(true)
		return in, nil
	}, func() error {
		if !returned.Load() {
			t.Error("closed while it computes")
		}
		close(closed)
		return nil
	})
	b := batch.New(batch.Options[int, int]{})
	b.Attach(1, i.Run)
	answered := make(chan struct{})
	if err := b.Submit(&batch.Query[int, int]{Done: func(*batch.Query[int, int]) { close(answered) }}); err != nil {
		t.Fatal(err)
	}
	<-computing
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := i.Stop(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("a stop without time said %v", err)
	}
	close(release)
	<-answered
	select {
	case <-closed:
	case <-time.After(time.Minute):
		t.Fatal("the model was never closed")
	}
}

func TestAnIdleModelIsClosedThoughNobodyHasTime(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range 100 {
		closed := make(chan struct{})
		_ = start(t, echo, func() error { close(closed); return nil }).Stop(ctx) // it may or may not wait
		select {
		case <-closed:
		case <-time.After(time.Minute):
			t.Fatal("the model was never closed")
		}
	}
}

func TestAnInitThatPanicsIsALoadError(t *testing.T) {
	r := Runtime[int, int]{New: func(context.Context) (batch.Func[int, int], func() error, error) { panic("no weights") }}
	_, err := r.Start(t.Context(), serving.ReplicaSpec{Backend: "m"})
	load, ok := errors.AsType[*serving.LoadError](err)
	if !ok || load.Type != "panic" || !strings.Contains(load.Message, "no weights") || !strings.Contains(load.Traceback, "gofunc_test") {
		t.Errorf("got %#v", err)
	}
}
