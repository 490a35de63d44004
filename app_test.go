package shoal_test

import (
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/shoalserve/shoal"
)

func TestABackendThatWasRefusedLeavesNoMetrics(t *testing.T) {
	app := newApp(t)
	serve(t, app, newGateModel(), shoal.Config{})
	if err := app.CreateBackend(t.Context(), "refused", newGateModel(), shoal.Config{NumReplicas: -1}); err == nil {
		t.Fatal("a backend with -1 replicas was created")
	}
	if err := app.CreateBackend(t.Context(), "a\nb", newGateModel(), shoal.Config{}); err == nil {
		t.Fatal("a backend with a line break in its name was created")
	}
	w := httptest.NewRecorder()
	app.Handler().ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "GET", "/metrics", nil))
	if body := w.Body.String(); !strings.Contains(body, `backend="m:v1"`) || strings.Contains(body, `backend="refused"`) || strings.Contains(body, `backend="a\nb"`) {
		t.Errorf("metrics:\n%s", body)
	}
}

func newGateModel() shoal.Model { return shoal.Batch(newGate().predict) }
