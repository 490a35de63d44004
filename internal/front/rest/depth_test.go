package rest

import (
	"strings"
	"testing"

	"github.com/shoalserve/shoal/internal/front/problem"
	"github.com/shoalserve/shoal/internal/serving"
)

func nested(n int) string { return strings.Repeat("[", n) + strings.Repeat("]", n) }

func TestABodyThatIsNestedTooDeeplyIsRefused(t *testing.T) {
	s := serve(t, Options{}, answering("m", text("yes")))
	for name, c := range map[string]struct {
		body   string
		status int
	}{
		"as deep as it may be": {nested(problem.MaxDepth), 200},
		"too deep":             {nested(problem.MaxDepth + 1), 400},
		"objects":              {strings.Repeat(`{"a":`, problem.MaxDepth+1) + "1" + strings.Repeat("}", problem.MaxDepth+1), 400},
		"wide":                 {"[" + strings.Repeat("[],", 2*problem.MaxDepth) + "[]]", 200},
		"in a text":            {`"` + strings.Repeat("[", 2*problem.MaxDepth) + `"`, 200},
		"behind an escape":     {`["\"",` + nested(problem.MaxDepth) + `]`, 400},
		"far too deep":         {nested(100_000), 400},
	} {
		t.Run(name, func(t *testing.T) {
			got := s.ask("POST", "/m", c.body, "Content-Type", "application/json")
			if got.StatusCode != c.status {
				t.Errorf("got %d, %.200s", got.StatusCode, got.body)
			}
			if c.status == 400 {
				if p := s.problem(got, 400, serving.InvalidArgument); !strings.Contains(p.Detail, "nested too deeply") {
					t.Errorf("detail is %q", p.Detail)
				}
			}
		})
	}
}
