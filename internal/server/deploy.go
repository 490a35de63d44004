package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/shoalserve/shoal/internal/config"
	"github.com/shoalserve/shoal/internal/runtime/python"
	"github.com/shoalserve/shoal/internal/serving"
)

// Deploy starts a Python backend and puts it in place.
func (s *Server) Deploy(ctx context.Context, name string, spec python.Spec, config serving.Config) error {
	_, err := s.Registry.Deploy(ctx, name, false, func(ctx context.Context) (serving.Backend, error) {
		return s.Deployer.Backend(ctx, name, spec, config)
	})
	return explain(err)
}

// explain shows the traceback of a model that could not be loaded: whoever
// starts a server is its author, or can ask him.
func explain(err error) error {
	if load, ok := errors.AsType[*serving.LoadError](err); ok && load.Traceback != "" {
		return fmt.Errorf("%w\n%s", err, load.Traceback)
	}
	return err
}

// Apply deploys what a config file describes: the backends all at once, then
// the endpoints.
func (s *Server) Apply(ctx context.Context, file *config.File) error {
	names := slices.Sorted(maps.Keys(file.Backends))
	errs := make([]error, len(names))
	var deploying sync.WaitGroup
	for i, name := range names {
		deploying.Go(func() {
			b := file.Backends[name]
			errs[i] = s.Deploy(ctx, name, b.Spec, b.Config)
		})
	}
	deploying.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(file.Endpoints)) {
		e := file.Endpoints[name]
		spec := serving.EndpointSpec{Traffic: e.Traffic, Shadows: e.Shadow, Route: e.Route, Methods: e.Methods, Example: e.Example}
		if _, err := s.Registry.CreateEndpoint(name, spec); err != nil {
			return fmt.Errorf("endpoint %q: %w", name, err)
		}
	}
	return nil
}

// RunScript runs a Python file that deploys to this server, and returns when it
// has ended; ctx ends it early. The file sees the server's address in
// SHOAL_SERVER, and what it prints goes to output.
func (s *Server) RunScript(ctx context.Context, path string, output io.Writer) error {
	absolute, err := filepath.Abs(path)
	if err == nil {
		_, err = os.Stat(absolute)
	}
	if err != nil {
		return fmt.Errorf("running a file: %w", err)
	}
	script := exec.CommandContext(ctx, s.Deployer.Interpreter(), "-m", "shoal._app", absolute)
	// A process group of its own: an interrupt on the terminal is for the
	// server, which then ends the file in good order.
	script.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	script.Cancel = func() error { return syscall.Kill(-script.Process.Pid, syscall.SIGTERM) }
	script.WaitDelay = 5 * time.Second
	script.Env = append(s.Deployer.Environment(nil), "SHOAL_SERVER="+s.AdminAddress(), "SHOAL_TOKEN="+s.opts.Token)
	script.Stdout, script.Stderr = output, output
	if err := script.Run(); err != nil {
		return fmt.Errorf("running %s: %w", path, err)
	}
	return nil
}
