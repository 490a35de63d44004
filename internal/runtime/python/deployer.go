package python

import (
	"cmp"
	"context"
	"log/slog"
	"sync"

	"github.com/shoalserve/shoal/internal/serving"
)

// Options are what all Python backends of a server share.
type Options struct {
	// SDKDir holds the package shoal for interpreters that have none installed.
	SDKDir string
	// Interpreter is the Python that runs backends which name none; default "python3".
	Interpreter string
	// Log gets each line that a worker writes; stream is "stdout" or "stderr".
	Log func(backend string, replica int, stream, line string)
	// Observer returns where a backend's metrics go.
	Observer func(backend string) serving.Observer
	Logger   *slog.Logger
	// PassEnv names variables that workers inherit beside those that programs need
	// to run. Default none.
	PassEnv []string
	// User is whom workers run as. Default the server's own.
	User *User
}

// Deployer makes backends of Python models.
type Deployer struct {
	opts    Options
	cgroups func() *cgroups // looks for them once a worker needs one
}

// NewDeployer returns a Deployer; the zero Options are usable.
func NewDeployer(opts Options) *Deployer {
	opts.Interpreter = cmp.Or(opts.Interpreter, "python3")
	if opts.Log == nil {
		opts.Log = func(string, int, string, string) {}
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	return &Deployer{opts, sync.OnceValue(func() *cgroups { return newCgroups(opts.Logger) })}
}

// Interpreter is the Python that runs backends which name none.
func (d *Deployer) Interpreter() string { return d.opts.Interpreter }

// Environment is the server's own, and extra, for a Python program of its owner.
func (d *Deployer) Environment(extra map[string]string) []string { return d.opts.environment(extra) }

// Backend starts a backend's workers and returns when all are ready. A model
// that cannot be imported or constructed is a *serving.LoadError with its traceback.
func (d *Deployer) Backend(ctx context.Context, name string, spec Spec, config serving.Config) (serving.Backend, error) {
	return d.Redeploy(ctx, nil, name, spec, config)
}

// Redeploy is Backend for a name that old has, unless it is nil. With a config whose
// max_surge does not let all new workers run beside old's, old takes the new version
// over, worker by worker, and is returned.
func (d *Deployer) Redeploy(ctx context.Context, old serving.Backend, name string, spec Spec, config serving.Config) (serving.Backend, error) {
	if err := spec.check(); err != nil {
		return nil, err
	}
	model := serving.Model[*serving.Call, serving.Response]{
		Kind:    "python",
		Runtime: &runtime{spec: spec, opts: d.opts, cgroups: d.cgroups},
		Key:     (*serving.Call).BatchKey,
		Size:    (*serving.Call).Size,
	}
	if pool, ok := old.(serving.CallPool); ok && pool.Rolls(config) {
		if err := pool.Roll(ctx, model, config, spec.Closed); err != nil {
			return nil, err
		}
		return pool, nil
	}
	deps := serving.Deps{Logger: d.opts.Logger, Closed: spec.Closed}
	if d.opts.Observer != nil {
		deps.Observer = d.opts.Observer(name)
	}
	pool, err := serving.NewCallPool(ctx, name, model, config, deps)
	if err != nil {
		return nil, err
	}
	return pool, nil
}

func (s Spec) check() error {
	switch {
	case s.Source.Kind == "pickle" && s.Source.Path == "":
		return serving.Errorf(serving.InvalidArgument, "a python source of kind \"pickle\" needs the digest of an artifact")
	case s.Source.Kind == "file" && (s.Source.Path == "" || s.Source.Object == ""):
		return serving.Errorf(serving.InvalidArgument, "a python source of kind \"file\" needs a path and an object, the name of a function or class in it")
	case s.Source.Kind != "pickle" && s.Source.Kind != "file":
		return serving.Errorf(serving.InvalidArgument, "a python source is of kind \"pickle\" or \"file\", not %q", s.Source.Kind)
	}
	return nil
}
