package rest

import (
	"strings"
	"testing"
	"time"

	"github.com/shoalserve/shoal/internal/serving"
)

func TestACallHasTheTermsOfItsHeaders(t *testing.T) {
	for name, c := range map[string]struct {
		header   []string
		caller   string
		priority int
		timeout  time.Duration
	}{
		"none":    {},
		"all":     {[]string{"Shoal-Caller", "batch job", "Shoal-Priority", "-3", "Shoal-Timeout", "2s"}, "batch job", -3, 2 * time.Second},
		"signed":  {[]string{"Shoal-Priority", "+3"}, "", 3, 0},
		"empty":   {[]string{"Shoal-Caller", "", "Shoal-Priority", ""}, "", 0, 0},
		"longest": {[]string{"Shoal-Caller", strings.Repeat("x", 128)}, strings.Repeat("x", 128), 0, 0},
		"twice":   {[]string{"Shoal-Caller", "a", "Shoal-Caller", "b"}, "a", 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			seen := make(chan serving.Call, 1)
			s := serve(t, Options{}, newFake("m", func(call *serving.Call) error {
				seen <- serving.Call{Caller: call.Caller, Priority: call.Priority, Timeout: call.Timeout, Arrived: call.Arrived}
				return answer(call, text("x"), nil)
			}))
			before := time.Now()
			s.ask("GET", "/m", "", c.header...)
			call := next(t, "the call", seen)
			if call.Caller != c.caller || call.Priority != c.priority || call.Timeout != c.timeout {
				t.Errorf("caller %q, priority %d, timeout %v", call.Caller, call.Priority, call.Timeout)
			}
			if call.Arrived.Before(before) || call.Arrived.After(time.Now()) {
				t.Errorf("arrived at %v, not after %v", call.Arrived, before)
			}
		})
	}
}

func TestTermsThatAreNone(t *testing.T) {
	s := serve(t, Options{}, answering("m", text("x")))
	for name, header := range map[string][]string{
		"a priority that is no number": {"Shoal-Priority", "high"},
		"a priority out of range":      {"Shoal-Priority", "4"},
		"a fraction":                   {"Shoal-Priority", "1.5"},
		"a name that is too long":      {"Shoal-Caller", strings.Repeat("x", 129)},
		"a name that is no text":       {"Shoal-Caller", "\xff"},
	} {
		p := s.problem(s.ask("GET", "/m", "", header...), 400, serving.InvalidArgument)
		if !strings.Contains(p.Detail, header[0]) {
			t.Errorf("%s: %s", name, p.Detail)
		}
	}
}
