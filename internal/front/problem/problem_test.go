package problem

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/shoalserve/shoal/batch"
	"github.com/shoalserve/shoal/internal/serving"
)

func TestProblemTypes(t *testing.T) {
	if slug("AlreadyExists") != "already-exists" || title("AlreadyExists") != "Already exists" || title("") != "Error" {
		t.Errorf("got %q, %q, %q", slug("AlreadyExists"), title("AlreadyExists"), title(""))
	}
}

func TestAModelSetsOnlyHeadersThatAreItsOwn(t *testing.T) {
	header := http.Header{"X-Mine": {"1"}, "Content-Length": {"7"}, "Connection": {"close"}, "Bad Name": {"x"}, "X-Split": {"a\r\nb: c"}}
	w := httptest.NewRecorder()
	Of(&serving.ModelError{Backend: "m", Type: "Teapot", Message: "short and stout", Status: 418, Header: header}).Write(w)
	if w.Code != 418 || w.Header().Get("X-Mine") != "1" || w.Header().Get("Content-Type") != ContentType {
		t.Errorf("got %d, %v", w.Code, w.Header())
	}
	for _, name := range []string{"Connection", "Bad Name", "X-Split"} {
		if _, ok := w.Header()[name]; ok {
			t.Errorf("header %q was let through", name)
		}
	}
	if !strings.Contains(w.Body.String(), `"exception":"Teapot"`) || !Of(&serving.ModelError{}).IsModel() {
		t.Errorf("body %s", w.Body)
	}
}

func TestARefusalSaysWhenToTryAgain(t *testing.T) {
	w := httptest.NewRecorder()
	Of(batch.ErrQueueFull).Write(w)
	if w.Code != 503 || w.Header().Get("Retry-After") == "" {
		t.Errorf("got %d, %v", w.Code, w.Header())
	}
	for after, want := range map[time.Duration]string{0: "1", time.Millisecond: "1", time.Second: "1", 2300 * time.Millisecond: "3"} {
		w := httptest.NewRecorder()
		Of(fmt.Errorf("wrapped: %w", &batch.OverloadError{RetryAfter: after})).Write(w)
		if got := w.Header().Get("Retry-After"); w.Code != 503 || got != want {
			t.Errorf("after %v: got %d, %q, want %q", after, w.Code, got, want)
		}
	}
}
