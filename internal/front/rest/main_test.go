package rest

import (
	"os"
	"os/exec"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// front is which front the tests of this process go through: the event loops, the
// event loops with every query submitted aside, or net/http alone.
var front = os.Getenv(frontVariable)

const (
	frontVariable = "SHOAL_TEST_FRONT"
	frontAside    = "aside"
	frontNetHTTP  = "net/http"
)

// Whichever way a request is served, it is served the same.
func TestAllOfThisOverTheOtherFronts(t *testing.T) {
	if front != "" {
		t.Skip("this is such a run")
	}
	for _, other := range []string{frontAside, frontNetHTTP} {
		t.Run(other, func(t *testing.T) {
			t.Parallel()
			run := exec.CommandContext(t.Context(), os.Args[0], "-test.timeout=9m") //nolint:gosec // it is this program
			run.Env = append(os.Environ(), frontVariable+"="+other)
			if out, err := run.CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}
