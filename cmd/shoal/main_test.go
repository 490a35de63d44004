package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"shoal": main})
}

// TestScripts runs testdata/*.txtar. "shoal" is this command; besides the usual
// ones there are the commands of servers_test.go.
func TestScripts(t *testing.T) {
	interpreter, err := exec.Command("python3", "-c", "import sys; print(sys.executable)").Output()
	if err != nil {
		t.Fatalf("looking for Python: %v", err)
	}
	python := strings.TrimSpace(string(interpreter))
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(env *testscript.Env) error {
			// Short, because the names of sockets must be.
			runtime, err := os.MkdirTemp("", "shoal-test-")
			if err != nil {
				return err
			}
			env.Defer(func() { os.RemoveAll(runtime) })
			env.Setenv("XDG_RUNTIME_DIR", runtime)
			env.Setenv("TMPDIR", runtime)
			env.Setenv("SHOAL_PYTHON", python)
			env.Setenv("PYTHONDONTWRITEBYTECODE", "1")
			models, err := os.ReadFile(filepath.Join("testdata", "models.py"))
			if err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(env.WorkDir, "models.py"), models, 0o600)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"start": start, "stop": stop, "signal": sendSignal, "hup": hangUp, "http": query, "await": awaitSocket, "misuse": misused,
		},
		Condition: func(name string) (bool, error) {
			return exec.Command(python, "-c", "import "+name).Run() == nil, nil
		},
	})
}
