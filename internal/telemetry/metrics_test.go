package telemetry

import (
	"context"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/shoalserve/shoal/batch"
	"github.com/shoalserve/shoal/internal/serving"
)

// fake is a backend that only has a status.
type fake struct {
	serving.Backend
	status serving.BackendStatus
}

func (b fake) Name() string                  { return b.status.Name }
func (b fake) Status() serving.BackendStatus { return b.status }
func (b fake) Close(context.Context) error   { return nil }

func scrape(t *testing.T, m *Metrics) string {
	t.Helper()
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "GET", "/metrics", nil))
	if w.Code != 200 || !strings.HasPrefix(w.Header().Get("Content-Type"), "text/plain") {
		t.Fatalf("got %d, %v: %s", w.Code, w.Header(), w.Body)
	}
	return w.Body.String()
}

func wantLines(t *testing.T, got string, want ...string) {
	t.Helper()
	for _, line := range want {
		if !strings.Contains(got, line+"\n") {
			t.Errorf("no line %s", line)
		}
	}
}

func deploy(t *testing.T, r *serving.Registry, status serving.BackendStatus) {
	t.Helper()
	_, err := r.Deploy(t.Context(), status.Name, true, func(context.Context) (serving.Backend, error) { return fake{status: status}, nil })
	if err != nil {
		t.Fatal(err)
	}
}

func TestABackendIsMeasured(t *testing.T) {
	r := serving.NewRegistry()
	defer r.Close(t.Context()) //nolint:errcheck // there is nothing to close
	m := New()
	m.Watch(r)
	deploy(t, r, serving.BackendStatus{
		Name: "adder:v1", Queued: 3, Running: 2, Restarts: 6, Wanted: 4, Stuck: 2, // one was of a replica that is gone
		RestartReasons: map[serving.RestartReason]uint64{serving.ReasonDied: 6},
		Replicas:       []serving.ReplicaStatus{{State: serving.StateReady, Restarts: 1}, {State: serving.StateReady}, {State: serving.StateFailed, Restarts: 4}},
		Stats:          serving.Stats{Admitted: 20, Answered: 12, Failed: 1, Refused: 4, Refusals: map[string]uint64{"queue_full": 3, "other": 1}, Dropped: 2, Ahead: 3, Returned: 1, Reasons: map[string]uint64{"free": 5, "full": 2}},
	})
	o := m.Observer("adder:v1")
	o.Batch(4, batch.Full, 5*time.Millisecond)
	o.Queued(time.Millisecond)
	o.Queued(100 * time.Second)
	got := scrape(t, m)
	wantLines(
		t, got,
		`shoal_queries_admitted_total{backend="adder:v1"} 20`,
		`shoal_queries_answered_total{backend="adder:v1"} 12`,
		`shoal_queries_failed_total{backend="adder:v1"} 1`,
		`shoal_queries_refused_total{backend="adder:v1",reason="queue_full"} 3`,
		`shoal_queries_dropped_total{backend="adder:v1",reason="left"} 2`,
		`shoal_batches_total{backend="adder:v1",reason="free"} 5`,
		`shoal_batches_ahead_total{backend="adder:v1"} 3`,
		`shoal_batches_returned_total{backend="adder:v1"} 1`,
		`shoal_batches_total{backend="adder:v1",reason="full"} 2`,
		`shoal_queued_queries{backend="adder:v1"} 3`,
		`shoal_running_queries{backend="adder:v1"} 2`,
		`shoal_replicas{backend="adder:v1",state="ready"} 2`,
		`shoal_replicas{backend="adder:v1",state="failed"} 1`,
		`shoal_replicas{backend="adder:v1",state="draining"} 0`,
		`shoal_replica_restarts_total{backend="adder:v1",reason="died"} 6`,
		`shoal_replica_restarts_total{backend="adder:v1",reason="batch_timeout"} 0`,
		`shoal_replicas_wanted{backend="adder:v1"} 4`,
		`shoal_stuck_replicas{backend="adder:v1"} 2`,
		`shoal_batch_size_bucket{backend="adder:v1",le="2"} 0`,
		`shoal_batch_size_bucket{backend="adder:v1",le="4"} 1`,
		`shoal_compute_duration_seconds_count{backend="adder:v1"} 1`,
		`shoal_compute_duration_seconds_sum{backend="adder:v1"} 0.005`,
		`shoal_queue_duration_seconds_count{backend="adder:v1"} 2`,
		`shoal_queue_duration_seconds_bucket{backend="adder:v1",le="+Inf"} 2`,
		"# TYPE shoal_queries_admitted_total counter",
		"# TYPE shoal_replicas gauge",
		"# TYPE shoal_batch_size histogram",
	)
	m.Routes().Get("m").Request(200, 0)
	isDocumented(t, scrape(t, m))
	if !strings.Contains(got, "go_goroutines") {
		t.Error("nothing about the process")
	}
	if err := r.Delete(t.Context(), "adder:v1"); err != nil {
		t.Fatal(err)
	}
	if got := scrape(t, m); strings.Contains(got, "shoal_queued_queries{") {
		t.Error("a backend that was deleted is still counted")
	}
}

// isDocumented checks that docs/metrics.md has a row for each of our metrics, with its type.
func isDocumented(t *testing.T, scraped string) {
	t.Helper()
	docs, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(scraped) {
		if name, ok := strings.CutPrefix(line, "# TYPE shoal_"); ok {
			name, kind, _ := strings.Cut(strings.TrimSpace(name), " ")
			if row := "| `shoal_" + name + "` | " + kind + " |"; !strings.Contains(string(docs), row) {
				t.Errorf("docs/metrics.md has no row %q", row)
			}
		}
	}
}

// A name that is not UTF-8 would make Prometheus's library panic. The registry
// refuses it, but only after its Observer was asked for.
func TestANameThatIsNotUTF8IsMeasuredAllTheSame(t *testing.T) {
	m := New()
	m.Observer("a\xff").Queued(0)
	m.Routes().Get("e\xff").Request(200, 0)
	wantLines(
		t, scrape(t, m),
		"shoal_queue_duration_seconds_count{backend=\"a\uFFFD\"} 1",
		"shoal_http_requests_total{code=\"200\",endpoint=\"e\uFFFD\"} 1",
	)
}

func TestRequestsAreCountedByEndpointAndCode(t *testing.T) {
	m := New()
	routes := m.Routes()
	var counting sync.WaitGroup
	for range 4 {
		counting.Go(func() {
			for range 100 {
				routes.Get("m").Request(200, time.Millisecond)
				routes.Get("").Request(404, time.Microsecond)
			}
		})
	}
	counting.Wait()
	routes.Get("m").Request(599, 0)
	for _, odd := range []int{-1, 600, 1000} {
		routes.Get("m").Request(odd, 0)
	}
	if routes.Get("m") != routes.Get("m") {
		t.Error("an endpoint has two Routes")
	}
	wantLines(
		t, scrape(t, m),
		`shoal_http_requests_total{code="200",endpoint="m"} 400`,
		`shoal_http_requests_total{code="404",endpoint=""} 400`,
		`shoal_http_requests_total{code="599",endpoint="m"} 1`,
		`shoal_http_requests_total{code="0",endpoint="m"} 3`,
		`shoal_http_request_duration_seconds_count{endpoint="m"} 404`,
	)
}

func BenchmarkRequest(b *testing.B) {
	routes := New().Routes()
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			routes.Get("m").Request(200, time.Millisecond)
		}
	})
}

func TestHowSoonRequestsAreRefused(t *testing.T) {
	m := New()
	route := m.Route("slow")
	route.Request(503, 2*time.Millisecond)
	route.Request(503, 20*time.Millisecond)
	route.Request(200, time.Millisecond)
	wantLines(t, scrape(t, m),
		`shoal_http_refusal_duration_seconds_bucket{endpoint="slow",le="0.005"} 1`, `shoal_http_refusal_duration_seconds_bucket{endpoint="slow",le="0.025"} 2`,
		`shoal_http_refusal_duration_seconds_count{endpoint="slow"} 2`, `shoal_http_request_duration_seconds_count{endpoint="slow"} 3`)
}
