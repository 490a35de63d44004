package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/shoalserve/shoal/internal/serving"
)

// explain shows the traceback of a model that could not be loaded: whoever
// starts a server is its author, or can ask him.
func explain(err error) error {
	if load, ok := errors.AsType[*serving.LoadError](err); ok && load.Traceback != "" {
		return fmt.Errorf("%w\n%s", err, load.Traceback)
	}
	return err
}

// RunScript runs a Python file that deploys to this server, and returns when it
// has ended; ctx ends it early. The file sees the server's address in
// SHOAL_SERVER, and what it prints goes to output. With replace, the backends
// that it creates take the place of those that exist.
func (s *Server) RunScript(ctx context.Context, path string, replace bool, output io.Writer) error {
	absolute, err := filepath.Abs(path)
	if err == nil {
		_, err = os.Stat(absolute)
	}
	if err != nil {
		return fmt.Errorf("running a file: %w", err)
	}
	script := exec.CommandContext(ctx, s.Deployer.Interpreter(), "-m", "shoal._app", absolute) // #nosec G204 -- to run what its owner names is its purpose
	// A process group of its own: an interrupt on the terminal is for the
	// server, which then ends the file in good order.
	script.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	script.Cancel = func() error { return syscall.Kill(-script.Process.Pid, syscall.SIGTERM) }
	script.WaitDelay = 5 * time.Second
	script.Env = append(s.Deployer.Environment(nil), "SHOAL_SERVER="+s.AdminAddress(), "SHOAL_TOKEN="+s.opts.Token)
	if replace {
		script.Env = append(script.Env, "SHOAL_REPLACE=1")
	}
	script.Stdout, script.Stderr = output, output
	if err := script.Run(); err != nil {
		return fmt.Errorf("running %s: %w", path, err)
	}
	return nil
}
