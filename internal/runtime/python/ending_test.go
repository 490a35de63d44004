package python

import (
	"errors"
	"os/exec"
	"strings"
	"testing"
)

func TestTheEndOfAProcessIsToldInWords(t *testing.T) {
	for script, want := range map[string]string{
		"exit 0":        "it exited with status 0",
		"exit 3":        "it ended with exit status 3",
		"kill -KILL $$": "signal 9 (SIGKILL): the system kills so when memory runs out",
		"kill -SEGV $$": "signal 11 (SIGSEGV): native code crashed",
		"kill -USR1 $$": "(SIGUSR1)",
	} {
		if got := ending(exec.Command("sh", "-c", script).Run()); !strings.Contains(got, want) {
			t.Errorf("%s: %q does not say %q", script, got, want)
		}
	}
	if got := ending(errors.New("never waited for")); got != "never waited for" {
		t.Error(got)
	}
}
