package shoal_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

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

func TestABackendWithoutAModel(t *testing.T) {
	app := shoal.New(shoal.Options{})
	err := app.CreateBackend(t.Context(), "m", nil, shoal.Config{})
	if err == nil || !strings.Contains(err.Error(), `backend "m": the model is nil`) {
		t.Errorf("got %v", err)
	}
	if err := app.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestAnAppThatIsToStopAnswersOnForItsShutdownDelayAndIsNotReady(t *testing.T) {
	app := shoal.New(shoal.Options{ShutdownDelay: time.Hour})
	serve(t, app, constant("hello"), shoal.Config{})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- app.Serve(ctx, listener) }()
	ask := func(path string) (int, string) { return askOnce(t, "http://"+listener.Addr().String()+path) }
	if status, body := ask("/readyz"); status != http.StatusOK {
		t.Errorf("it is not ready: %s", body)
	}
	stop()
	for began := time.Now(); ; { // it learns of it on a goroutine of its own
		if status, body := ask("/readyz"); status == http.StatusServiceUnavailable {
			if !strings.Contains(body, "about to stop") {
				t.Errorf("it is not ready because %s", body)
			}
			break
		}
		if time.Since(began) > time.Minute {
			t.Fatal("it is still ready")
		}
	}
	if status, body := ask("/m?n=1"); status != http.StatusOK || body != "hello" {
		t.Errorf("a query after it was to stop is answered %d %s", status, body)
	}
	if err := app.Close(t.Context()); err != nil { // which ends the delay
		t.Error(err)
	}
	if err := <-served; err != nil {
		t.Errorf("serving ended with %v", err)
	}
}

func TestAnAppStopsWhenItsShutdownDelayIsOver(t *testing.T) {
	app := shoal.New(shoal.Options{ShutdownDelay: time.Millisecond})
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if err := app.ListenAndServe(ctx, "127.0.0.1:0"); err != nil {
		t.Errorf("serving ended with %v", err)
	}
	if err := app.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// A listener that fails ends Serve, whatever the delay.
func TestAnAppWithAShutdownDelayWhoseListenerFails(t *testing.T) {
	app := shoal.New(shoal.Options{ShutdownDelay: time.Hour})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	if err := app.Serve(t.Context(), listener); !errors.Is(err, net.ErrClosed) {
		t.Errorf("serving ended with %v", err)
	}
	if err := app.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// askOnce asks on a connection of its own and returns the status and the body.
func askOnce(t *testing.T, url string) (int, string) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(body)
}
