package problem

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shoalserve/shoal/internal/serving"
)

type named struct {
	serving.Backend
	name string
}

func (n named) Name() string { return n.name }

func TestAModelThatAlwaysFailsDoesNotFloodTheLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		f := NewFailures(slog.New(slog.NewJSONHandler(&out, nil)))
		fail := func(backend string, times int) (said []map[string]any) {
			t.Helper()
			out.Reset()
			var failing sync.WaitGroup
			for range times {
				failing.Go(func() {
					f.Tell("id", &serving.Call{Backend: named{name: backend}, Err: &serving.ModelError{Message: "bad", Traceback: "line 1"}})
				})
			}
			failing.Wait()
			for line := range strings.Lines(out.String()) {
				var entry map[string]any
				if err := json.Unmarshal([]byte(line), &entry); err != nil {
					t.Fatal(err)
				}
				said = append(said, entry)
			}
			return said
		}
		first := fail("a", 1000)
		if len(first) != firstFailures || first[0]["traceback"] != "line 1" || first[0]["backend"] != "a" {
			t.Errorf("of 1000 failures at once %d were told, the first as %v", len(first), first[0])
		}
		if other := fail("b", 1); len(other) != 1 || other[0]["suppressed"] != nil {
			t.Errorf("another backend's first failure: %v", other)
		}
		time.Sleep(failureInterval)
		told := 0.0
		for _, entry := range first {
			n, _ := entry["suppressed"].(float64)
			told += n
		}
		later := fail("a", 1)
		if len(later) != 1 {
			t.Fatalf("later: %v", later)
		}
		n, _ := later[0]["suppressed"].(float64)
		if told+n != 1000-firstFailures || later[0]["traceback"] != "line 1" {
			t.Errorf("%v and %v were suppressed, of %d: %v", told, n, 1000-firstFailures, later[0])
		}
	})
}
