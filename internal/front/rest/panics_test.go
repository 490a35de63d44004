package rest

import (
	"strings"
	"testing"

	"github.com/shoalserve/shoal/internal/serving"
)

// hostile is an error of a model's that panics when it is looked into.
type hostile struct{}

func (hostile) Error() string { return "hostile" }

// As is what the standard library asks errors whether they are of another type.
func (hostile) As(any) bool { panic("looked into") }

// A panic while an answer is written fails that request alone, whoever writes it: the loop,
// which refuses, a goroutine that submits, or one that has computed.
func TestAPanicWhileARequestIsRefused(t *testing.T) {
	s := serve(t, Options{}, newFake("refused", func(*serving.Call) error { return hostile{} }), failing("failed", hostile{}), answering("fine", text("fine")))
	for _, path := range []string{"/refused", "/failed"} {
		for name, body := range map[string]string{"small": "x", "large": strings.Repeat("x", largeSize)} {
			t.Run(path+", "+name, func(t *testing.T) {
				p := s.problem(s.ask("POST", path, body, "X-Request-Id", "mine"), 500, serving.Internal)
				if p.Detail != "the server failed to handle the request" || p.Instance != "mine" {
					t.Errorf("got %+v", p)
				}
				if got := s.ask("GET", "/fine", ""); got.body != "fine" {
					t.Errorf("after the panic: %q", got.body)
				}
			})
		}
	}
	if !strings.Contains(s.log.String(), "looked into") {
		t.Errorf("logged %s", s.log)
	}
}

// largeSize is that of a body which the loops have submitted by another goroutine.
const largeSize = 8 << 10
