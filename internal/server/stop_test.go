package server

import (
	"net/http"
	"strings"
	"testing"
	"time"
)

// lingering is a server that serves for a while longer once it is to stop.
func lingering(t *testing.T, delay time.Duration) *running {
	t.Helper()
	r := start(t, func(o *Options) { o.ShutdownDelay = delay })
	t.Cleanup(func() { r.Hasten() })
	_, err := r.Apply(t.Context(), parse(t, "backends: {adder: {python: models.py:adder}}\nendpoints: {adder: {route: /adder, backend: adder}}\n"), false)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestAServerThatIsToStopAnswersOnForItsShutdownDelayAndIsNotReady(t *testing.T) {
	r := lingering(t, time.Hour)
	if status, body := r.get(t, "/readyz"); status != http.StatusOK {
		t.Fatalf("it is not ready: %s", body)
	}
	r.stop()
	for began := time.Now(); ; { // it learns of it on a goroutine of its own
		status, body := r.get(t, "/readyz")
		if status == http.StatusServiceUnavailable && strings.Contains(body, "about to stop") {
			break
		}
		if time.Since(began) > patience {
			t.Fatalf("it is still ready: %d %s", status, body)
		}
	}
	if status, body := r.get(t, "/adder?number=41"); status != http.StatusOK {
		t.Errorf("a query after it was asked to stop is answered %d %s", status, body)
	}
	if !r.Hasten() {
		t.Error("there is no delay to end")
	}
	if err := r.end(t); err != nil {
		t.Errorf("stopped with %v", err)
	}
	if r.Hasten() {
		t.Error("there is still a delay to end")
	}
}

func TestAServerStopsWhenItsShutdownDelayIsOver(t *testing.T) {
	r := lingering(t, time.Millisecond)
	r.stop()
	if err := r.end(t); err != nil {
		t.Errorf("stopped with %v", err)
	}
}

func TestAServerThatWasNeverReadyDoesNotDelayItsEnd(t *testing.T) {
	r := start(t, func(o *Options) { o.ShutdownDelay = time.Hour })
	r.Deploying()
	r.stop()
	if err := r.end(t); err != nil {
		t.Errorf("stopped with %v", err)
	}
}
