package shoal_test

import (
	"context"
	"errors"
	"testing"

	"github.com/shoalserve/shoal"
)

// leaving is a model that fails with its context's error once all of its callers have left.
func leaving(began chan<- struct{}) shoal.Model {
	return shoal.Batch(func(ctx context.Context, in []int) ([]int, error) {
		began <- struct{}{}
		<-ctx.Done()
		return nil, ctx.Err()
	})
}

func TestAQueryThatFailsSinceItsContextEndedHasTheContextsError(t *testing.T) {
	app, began := newApp(t), make(chan struct{}, 100)
	serve(t, app, leaving(began), shoal.Config{MaxBatchSize: 8})
	h := handle[int, int](t, app)
	for range 20 {
		ctx, cancel := context.WithCancelCause(t.Context())
		ref := h.Remote(ctx, 1)
		<-began
		cancel(context.DeadlineExceeded) // as its deadline ends it
		if _, err := ref.Get(context.Background()); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("Get without an end: %T %v", err, err)
		}
		if _, err := ref.Get(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("Get with the same context: %T %v", err, err)
		}
	}
}

func TestAContextThatEndsBeforeTheModelFailsIsTheError(t *testing.T) {
	app, g := newApp(t), newGate()
	serve(t, app, shoal.Batch(g.predict), shoal.Config{MaxBatchSize: 8})
	h := handle[int, int](t, app)
	ways := map[string]func(context.Context) error{
		"Call": func(ctx context.Context) error { _, err := h.Call(ctx, 1); return err },
		"Get":  func(ctx context.Context) error { _, err := h.Remote(t.Context(), 1).Get(ctx); return err },
		"both": func(ctx context.Context) error { _, err := h.Remote(ctx, 1).Get(ctx); return err },
	}
	for name, ask := range ways {
		for range 20 {
			ctx, cancel := context.WithCancelCause(t.Context())
			go func() {
				<-g.began
				cancel(context.DeadlineExceeded)
				g.release <- errors.New("broken")
			}()
			if err := ask(ctx); !errors.Is(err, context.DeadlineExceeded) {
				t.Fatalf("%s: %T %v", name, err, err)
			}
		}
	}
}

func TestAModelThatFailsBeforeTheContextEndsIsTheError(t *testing.T) {
	app, g := newApp(t), newGate()
	serve(t, app, shoal.Batch(g.predict), shoal.Config{MaxBatchSize: 8})
	h := handle[int, int](t, app)
	ctx, cancel := context.WithCancel(t.Context())
	g.release <- errors.New("broken")
	ref := h.Remote(ctx, 1)
	<-ref.Done()
	cancel()
	_, err := ref.Get(context.Background())
	if failure, ok := errors.AsType[*shoal.ModelError](err); !ok || failure.Message != "broken" {
		t.Errorf("%T %v", err, err)
	}
}
