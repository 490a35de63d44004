package server

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// contextOf is the test's context with a cancel.
func contextOf(t *testing.T) (context.Context, context.CancelFunc) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	return ctx, cancel
}

// needsSDK skips a test when the interpreter lacks what the SDK imports.
func needsSDK(t *testing.T) {
	t.Helper()
	if err := exec.Command(interpreter(), "-c", "import cloudpickle").Run(); err != nil {
		t.Skip("the interpreter has no cloudpickle")
	}
}

func TestAFileDeploysItself(t *testing.T) {
	needsSDK(t)
	r := start(t)
	if err := r.RunScript(t.Context(), "testdata/app.py", false, r.said); err != nil {
		t.Fatalf("%v\n%s", err, r.said)
	}
	if _, body := r.get(t, "/adder?number=41"); strings.TrimSpace(body) != "42" {
		t.Errorf("answer is %s", body)
	}
	if !strings.Contains(r.said.String(), "deployed") {
		t.Errorf("the file's words are lost: %s", r.said)
	}
}

func TestAFileWithoutADeployServesWhatTakesBatches(t *testing.T) {
	r := start(t)
	if err := r.RunScript(t.Context(), "testdata/models.py", false, r.said); err != nil {
		t.Fatalf("%v\n%s", err, r.said)
	}
	if _, body := r.get(t, "/adder?number=41"); strings.TrimSpace(body) != "42" {
		t.Errorf("answer is %s", body)
	}
	if got := len(r.backends()); got != 1 {
		t.Errorf("there are %d backends", got)
	}
}

func TestAFileThatFailsSaysWhy(t *testing.T) {
	r := start(t)
	if err := r.RunScript(t.Context(), "testdata/absent.py", false, r.said); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error is %v", err)
	}
	bad := filepath.Join(t.TempDir(), "bad.py")
	if err := os.WriteFile(bad, []byte("raise RuntimeError('not today')\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := r.RunScript(t.Context(), bad, false, r.said); err == nil || !strings.Contains(r.said.String(), "not today") {
		t.Errorf("error is %v, said: %s", err, r.said)
	}
}

func TestAFileEndsWithItsContext(t *testing.T) {
	r := start(t)
	p := newPipes(t)
	file := filepath.Join(t.TempDir(), "long.py")
	text := "open(" + quote(p.entered) + ", 'w').close()\nopen(" + quote(p.opened) + ").close()\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := contextOf(t)
	ended := make(chan error, 1)
	go func() { ended <- r.RunScript(ctx, file, false, r.said) }()
	pass(t, p.entered, os.O_RDONLY)
	cancel()
	if err := <-ended; err == nil {
		t.Error("the file ran to its end")
	}
}

func quote(s string) string { return "'" + s + "'" }
