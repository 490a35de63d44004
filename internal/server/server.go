package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/shoalserve/shoal/internal/artifact"
	"github.com/shoalserve/shoal/internal/auth"
	"github.com/shoalserve/shoal/internal/config"
	"github.com/shoalserve/shoal/internal/front/admin"
	"github.com/shoalserve/shoal/internal/front/rest"
	"github.com/shoalserve/shoal/internal/runtime/python"
	"github.com/shoalserve/shoal/internal/secure"
	"github.com/shoalserve/shoal/internal/serving"
	"github.com/shoalserve/shoal/internal/telemetry"
	sdk "github.com/shoalserve/shoal/python"
)

// Options configure a server. Zero fields take their defaults.
type Options struct {
	// HTTPAddress is where web queries are served. Default 127.0.0.1:8000; with
	// port 0, a free one.
	HTTPAddress string
	// AdminAddress is where the server is run: "unix:/path", or
	// "http://host:port" with a Token.
	AdminAddress string
	Token        string
	// TLS is the certificate of HTTP, and of an admin address with https://; empty
	// for none.
	TLS secure.Files
	// Auth are the credentials that the server takes; nil: everybody may ask, and
	// the token, or the socket's owner, may do everything.
	Auth *auth.Config
	// AuditFile is where changes are written down; empty for the log.
	AuditFile string
	// NoPickle refuses models and queries that come as pickles.
	NoPickle bool
	// PassEnv names environment variables that workers get beside those that
	// programs need to run.
	PassEnv []string
	// WorkerUser is whom workers run as; empty for the server's own user.
	WorkerUser string
	// Interpreter is the Python of backends that name none. Default python3.
	Interpreter string
	// ShutdownDelay is how long the server goes on as it did once it is to stop,
	// except that /readyz says it is not ready: load balancers that notice late
	// still get their answers. Default 0: it refuses new queries at once.
	ShutdownDelay time.Duration
	// Rest are the limits of the HTTP front.
	Rest    rest.Options
	Version string
	Logger  *slog.Logger
	// Output gets what models print, line by line behind their backend's name.
	Output io.Writer
}

// defaultShutdown is how long accepted queries may take once the server stops.
const defaultShutdown = 30 * time.Second

// Server is one server. Its parts exist from New on; it answers once Run was called.
type Server struct {
	Registry *serving.Registry
	Deployer *python.Deployer

	opts    Options
	http    net.Listener
	admin   net.Listener
	front   *rest.Front
	control *admin.Front
	prober  *serving.Prober
	state   *state
	auth    *auth.Authenticator // nil: nobody is asked
	audit   *auditFile          // nil: the log
	secure  *secure.Source      // nil: plain
	user    *python.User        // nil: the server's own

	reload    admin.Reload          // see Reloading
	reloading chan struct{}         // has room for the one that runs, who has the fields below too
	file      *config.File          // the last that was applied; nil: none
	deployed  map[string]deployment // of its backends

	hurried context.Context // ends with Hasten
	hurry   context.CancelFunc
	forced  context.Context // ends with Abort
	force   context.CancelCauseFunc
}

var errForced = serving.Errorf(serving.Draining, "the server was forced to stop at once")

// New listens on the server's addresses and puts its parts together. A server
// that is not run must be closed.
func New(opts Options) (*Server, error) {
	opts.HTTPAddress = cmp.Or(opts.HTTPAddress, "127.0.0.1:8000")
	opts.Rest.ShutdownTimeout = cmp.Or(opts.Rest.ShutdownTimeout, defaultShutdown)
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Server{opts: opts, Registry: serving.NewRegistry(), reloading: make(chan struct{}, 1)}
	s.forced, s.force = context.WithCancelCause(context.Background())
	s.hurried, s.hurry = context.WithCancel(s.forced)
	if err := s.open(); err != nil {
		return nil, errors.Join(err, s.Close(context.Background()))
	}
	return s, nil
}

func (s *Server) open() (err error) {
	if s.opts.WorkerUser != "" {
		if s.user, err = python.LookUser(s.opts.WorkerUser); err != nil {
			return err
		}
	}
	if s.state, err = openState(); err != nil {
		return err
	}
	library := filepath.Join(s.state.path, "sdk")
	if err := unpack(library); err != nil {
		return err
	}
	if err := s.openAuth(); err != nil {
		return err
	}
	artifacts, err := artifact.OpenDir(filepath.Join(s.state.path, "artifacts"), 0)
	if err != nil {
		return err
	}
	if s.user != nil {
		if err := s.user.Show(s.state.path); err != nil {
			return err
		}
		artifacts.ShareWithGroup()
	}
	if s.http, err = net.Listen("tcp", s.opts.HTTPAddress); err != nil {
		return fmt.Errorf("listening for HTTP: %w", err)
	}
	if s.admin, err = admin.Listen(s.opts.AdminAddress, s.opts.Token != "" || s.auth != nil, s.adminTLS()); err != nil {
		return err
	}
	s.warnOpen()
	s.assemble(library, artifacts)
	return nil
}

func (s *Server) assemble(library string, artifacts artifact.Store) {
	log := s.opts.Logger
	metrics := telemetry.New()
	metrics.Watch(s.Registry)
	s.Registry.LogCanaries(log)
	lines := telemetry.NewLines(s.opts.Output)
	s.prober = serving.NewProber(s.Registry)
	s.Deployer = python.NewDeployer(python.Options{
		SDKDir: library, Interpreter: s.opts.Interpreter, Log: lines.Write, Observer: metrics.Observer, Logger: log,
		PassEnv: s.opts.PassEnv, User: s.user,
	})
	limits := s.opts.Rest
	limits.Logger, limits.Metrics, limits.Prober = log, metrics, s.prober
	limits.Auth = s.auth
	if s.secure != nil {
		limits.TLS = s.secure.Config("h2", "http/1.1")
	}
	s.front = rest.New(s.Registry, limits)
	s.control = admin.New(admin.Options{
		Registry: s.Registry, Prober: s.prober, Deployer: s.Deployer, Artifacts: artifacts, Logs: lines, Token: s.opts.Token,
		Auth: s.auth, Audit: s.auditLog(), NoPickle: s.opts.NoPickle, Denied: func(reason string) { metrics.Denied("admin", reason) },
		Version: s.opts.Version, HTTPAddress: s.HTTPAddress, Logger: log, ShutdownTimeout: limits.ShutdownTimeout,
		Reload: s.Reload, MaxInflightBytes: limits.MaxInflightBytes, Refused: func(reason string) { metrics.Refused("admin", reason) },
	})
}

// unpack writes the SDK's source where interpreters find it.
func unpack(dir string) error {
	files, err := fs.Sub(sdk.SDK, ".")
	if err == nil {
		err = os.CopyFS(dir, files)
	}
	if err != nil {
		return fmt.Errorf("unpacking the Python SDK: %w", err)
	}
	return nil
}

// HTTPAddress is the address on which web queries are served, "host:port".
func (s *Server) HTTPAddress() string { return s.http.Addr().String() }

// HTTPURL is where web queries are served, as a URL.
func (s *Server) HTTPURL() string {
	if s.secure != nil {
		return "https://" + s.HTTPAddress()
	}
	return "http://" + s.HTTPAddress()
}

// AdminAddress is the address on which the server is run, as clients dial it.
func (s *Server) AdminAddress() string {
	if s.admin.Addr().Network() == "unix" {
		return "unix:" + s.admin.Addr().String()
	}
	if s.secure != nil {
		return "https://" + s.admin.Addr().String()
	}
	return "http://" + s.admin.Addr().String()
}

// Deploying makes the server say that it is not ready until done is called: what
// it is to serve is not there yet, and whoever sends it queries would get 404.
// Reloads wait for it too.
func (s *Server) Deploying() (done func()) {
	s.reloading <- struct{}{}
	release := s.prober.Hold("what the server was started with is still being deployed")
	return func() { release(); <-s.reloading }
}

// Run serves until ctx ends, and for Options.ShutdownDelay after it. Then it
// refuses new queries, finishes the accepted ones, stops the workers and returns
// nil; or an error that says what was not finished in time. It may be called
// once, and closes the server.
func (s *Server) Run(ctx context.Context) error {
	asked := ctx
	ctx, cancel := context.WithCancel(context.WithoutCancel(asked))
	defer cancel()
	var lingering sync.WaitGroup
	defer lingering.Wait()
	lingering.Go(func() {
		defer cancel()
		s.linger(ctx, asked)
	})
	fronts := []func(context.Context) error{
		func(ctx context.Context) error { return s.front.Serve(ctx, s.http) },
		func(ctx context.Context) error { return s.control.Serve(ctx, s.admin) },
	}
	served := make(chan error, len(fronts))
	for _, serve := range fronts {
		go func() { // awaitFronts waits for it
			defer cancel() // a front that ends ends the server
			served <- serve(ctx)
		}()
	}
	err := s.awaitFronts(served, len(fronts))
	grace, stop := context.WithTimeout(s.forced, s.opts.Rest.ShutdownTimeout)
	defer stop()
	return errors.Join(err, s.Close(grace))
}

// linger returns when the server is to refuse new queries: ShutdownDelay after it
// was asked to stop, or earlier after Hasten, or when running has ended. From when
// it was asked on it is not ready.
func (s *Server) linger(running, asked context.Context) {
	defer s.hurry() // from then on there is nothing to hasten
	select {
	case <-asked.Done():
	case <-running.Done():
		return
	}
	delay := s.opts.ShutdownDelay
	if s.prober.Held() { // it was never ready, and no load balancer sends it anything
		delay = 0
	}
	until, cancel := context.WithCancel(running)
	defer cancel()
	defer context.AfterFunc(s.hurried, cancel)()
	s.prober.Linger(until, delay, s.opts.Logger)
}

// Hasten ends the rest of a ShutdownDelay, and reports whether there was one to
// end: else whoever asks for more haste wants Abort.
func (s *Server) Hasten() bool {
	if s.opts.ShutdownDelay <= 0 || s.hurried.Err() != nil {
		return false
	}
	s.hurry()
	return true
}

// awaitFronts returns when the fronts have ended. After Abort the accepted
// queries fail, so that the fronts have nothing left to wait for.
func (s *Server) awaitFronts(served <-chan error, fronts int) error {
	var errs []error
	aborted := s.forced.Done()
	for fronts > 0 {
		select {
		case err := <-served:
			errs = append(errs, err)
			fronts--
		case <-aborted:
			aborted = nil
			errs = append(errs, s.Registry.Close(s.forced))
		}
	}
	return errors.Join(errs...)
}

// Abort makes a Run whose context has ended return soon: what was accepted and
// is not answered yet fails, and the workers are killed.
func (s *Server) Abort() { s.force(errForced) }

// Close stops what is deployed and removes what the server left on disk.
func (s *Server) Close(ctx context.Context) error {
	errs := []error{s.Registry.Close(ctx)}
	for _, l := range []net.Listener{s.http, s.admin} {
		if l == nil {
			continue
		}
		if err := l.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	s.auth.Close()
	if s.audit != nil {
		errs = append(errs, s.audit.Close())
	}
	if s.state != nil {
		errs = append(errs, s.state.close())
	}
	return errors.Join(errs...)
}
