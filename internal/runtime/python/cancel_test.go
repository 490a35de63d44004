package python

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/shoalserve/shoal/internal/serving"
)

// eventually waits until something is true.
func eventually(t *testing.T, what string, ready func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ready(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

func TestAModelIsToldWhenEveryCallerHasLeft(t *testing.T) {
	for _, model := range []string{"endless", "endless_async"} {
		for concurrency := 1; concurrency <= 2; concurrency++ {
			t.Run(fmt.Sprintf("%s, %d at a time", model, concurrency), func(t *testing.T) {
				b := mustDeploy(t, model, serving.Config{MaxConcurrentBatches: concurrency})
				told := filepath.Join(t.TempDir(), "told")
				c := api(`{"started":` + strconv.Quote(told) + `}`)
				wait := submit(t, b, c)
				eventually(t, "the model to start", func() bool { _, err := os.Stat(told); return err == nil })
				if c.Withdraw() {
					t.Fatal("a query that is computed was withdrawn")
				}
				if c := wait(); c.Err != nil {
					t.Error(c.Err)
				}
				if text, err := os.ReadFile(told); string(text) != "cancelled" {
					t.Errorf("the model wrote %q, %v", text, err)
				}
				if b.Status().Stats.Wasted <= 0 {
					t.Error("nothing was wasted")
				}
				if c := submit(t, b, api(`{}`))(); c.Err != nil || string(c.Response.Body) != "false" {
					t.Errorf("the next query got %s, %v", c.Response.Body, c.Err)
				}
			})
		}
	}
}

func TestABatchSentAheadThatEveryCallerLeftIsNotComputed(t *testing.T) {
	b := mustDeploy(t, "wait_for", serving.Config{MaxBatchSize: 2})
	first := submitBlocked(t, b)
	calls := []*serving.Call{api(`{}`), api(`{}`)}
	second, third := submit(t, b, calls[0]), submit(t, b, calls[1])
	if s := b.Status(); s.Running != 3 {
		t.Fatalf("%d queries run; the full batch was to be sent ahead", s.Running)
	}
	for _, c := range calls {
		if c.Withdraw() {
			t.Error("a query that was sent ahead was withdrawn")
		}
	}
	for _, c := range []*serving.Call{second(), third()} {
		if !errors.Is(c.Err, context.Canceled) {
			t.Errorf("a query that left got %v", c.Err)
		}
	}
	if s := b.Status(); s.Running != 1 || s.Queued != 0 || s.Stats.Dropped != 2 {
		t.Errorf("%d queries run, %d wait, %d were dropped", s.Running, s.Queued, s.Stats.Dropped)
	}
	first.release()
	mustPID(t, first.wait())
}
