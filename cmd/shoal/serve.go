package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/shoalserve/shoal/internal/config"
	"github.com/shoalserve/shoal/internal/runtime/python"
	"github.com/shoalserve/shoal/internal/server"
	"github.com/shoalserve/shoal/internal/serving"
	"github.com/shoalserve/shoal/internal/telemetry"
)

// serveFlags are the flags of "shoal serve".
type serveFlags struct {
	http, admin, tokenFile, interpreter string
	logFormat                           string
	logLevel                            slog.Level
	embedded, detached                  bool

	// For FILE.py:NAME.
	model   map[string]string // config keys that were given
	route   string
	methods []string
}

func newServe(t *target) *cobra.Command {
	f := &serveFlags{}
	c := &cobra.Command{
		Use:   "serve [FILE.py[:NAME] | FILE.yaml]",
		Short: "Start a server",
		Long: `Start a server, and serve a Python function or class, what a Python file deploys, or
what a config file describes. Without an argument it starts empty; deploy to it from Python.

  shoal serve adder.py:adder                       function or class "adder", at /adder
  shoal serve adder.py:adder --max-batch-size 32
  shoal serve app.py                               runs the file, which calls serve.create_backend …,
                                                   or serves every @serve.accept_batch in it
  shoal serve shoal.yaml                           see "shoal config schema"

It stops on SIGINT or SIGTERM: new queries are refused, accepted ones are finished.`,
		Args: args(cobra.MaximumNArgs(1)),
		RunE: func(c *cobra.Command, given []string) error {
			f.model = modelConfig(c)
			return f.run(c, t, given)
		},
	}
	flags := c.Flags()
	flags.StringVar(&f.http, "http", "", "`address` for web queries (default 127.0.0.1:8000; port 0 takes a free one)")
	flags.StringVar(&f.admin, "admin", "", "`address` to run the server at: unix:/path, or http://host:port with --token-file (default a socket that only you can open)")
	flags.StringVar(&f.tokenFile, "token-file", "", "`file` with the bearer token of an admin address on TCP")
	flags.StringVar(&f.interpreter, "interpreter", "", "the Python to run models with (default the one that shoal was installed for, else python3; env SHOAL_PYTHON)")
	flags.StringVar(&f.logFormat, "log-format", "", "auto, text or json (default auto: text on a terminal)")
	flags.TextVar(&f.logLevel, "log-level", slog.LevelInfo, "debug, info, warn or error")
	flags.Int("max-batch-size", 0, "for FILE.py:NAME, the most queries in one call")
	flags.Duration("batch-wait-timeout", 0, "for FILE.py:NAME, how long to hold a batch back for it to fill")
	flags.Int("num-replicas", 0, "for FILE.py:NAME, how many workers to start")
	flags.StringVar(&f.route, "route", "", "for FILE.py:NAME, the `path` to serve it at (default /NAME)")
	flags.StringSliceVar(&f.methods, "method", []string{http.MethodGet, http.MethodPost}, "for FILE.py:NAME, the HTTP `methods`")
	flags.BoolVar(&f.embedded, "embedded", false, "stop when standard input ends; report on standard output")
	flags.BoolVar(&f.detached, "detached", false, "with --embedded, do not watch standard input")
	cobra.CheckErr(flags.MarkHidden("embedded"))
	cobra.CheckErr(flags.MarkHidden("detached"))
	return c
}

// modelFlags are the flags that are config keys of the served model.
var modelFlags = []string{"max-batch-size", "batch-wait-timeout", "num-replicas"}

// modelConfig returns the config keys whose flags were given.
func modelConfig(c *cobra.Command) map[string]string {
	given := make(map[string]string)
	for _, name := range modelFlags {
		if flag := c.Flags().Lookup(name); flag.Changed {
			given[strings.ReplaceAll(name, "-", "_")] = flag.Value.String()
		}
	}
	return given
}

// source is what the argument of "shoal serve" names.
type source struct {
	file   *config.File // a config file
	script string       // a Python file
	object string       // a name in it; empty for what the script deploys itself
}

func parseSource(given []string) (source, error) {
	if len(given) == 0 {
		return source{}, nil
	}
	path, object, named := strings.Cut(given[0], ".py:")
	switch {
	case named && object == "":
		return source{}, &usageError{fmt.Errorf("%q names no function or class after the colon", given[0])}
	case named:
		return source{script: path + ".py", object: object}, nil
	case strings.HasSuffix(path, ".py"):
		return source{script: path}, nil
	case strings.HasSuffix(path, ".yaml"), strings.HasSuffix(path, ".yml"):
		file, err := config.Load(path)
		return source{file: file}, err
	}
	return source{}, &usageError{fmt.Errorf("%q is neither a Python file (app.py, app.py:name) nor a config file (shoal.yaml)", given[0])}
}

func (f *serveFlags) run(c *cobra.Command, t *target, given []string) error {
	err := f.serve(c, t, given)
	if err != nil && f.embedded {
		_ = json.NewEncoder(c.OutOrStdout()).Encode(map[string]any{"ready": false, "error": err.Error()})
	}
	return err
}

func (f *serveFlags) serve(c *cobra.Command, t *target, given []string) error {
	from, err := parseSource(given)
	if err != nil {
		return err
	}
	if len(f.model) > 0 && from.object == "" {
		return &usageError{errors.New("--max-batch-size, --batch-wait-timeout and --num-replicas are for FILE.py:NAME; elsewhere the config says it")}
	}
	opts, err := f.options(c, t, from)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(c.Context())
	defer cancel()
	if f.embedded && !f.detached {
		go func() { // ends with standard input, at the latest with the process
			_, _ = io.Copy(io.Discard, c.InOrStdin())
			cancel()
		}()
	}
	s, err := server.New(opts)
	if err != nil {
		return err
	}
	ran := make(chan error, 1)
	go func() { ran <- s.Run(ctx) }()
	if err := f.deploy(ctx, s, from, opts.Logger, c.ErrOrStderr()); err != nil {
		cancel()
		return errors.Join(err, <-ran)
	}
	f.announce(c, s, opts.Logger)
	err = <-ran
	opts.Logger.Info("stopped")
	return err
}

// options are the server's, from the config file with the flags on top.
func (f *serveFlags) options(c *cobra.Command, t *target, from source) (server.Options, error) {
	var opts server.Options
	if from.file != nil {
		opts = server.OptionsOf(from.file)
		if f.logFormat == "" {
			f.logFormat = from.file.Log.Format
		}
		if !c.Flags().Changed("log-level") {
			f.logLevel = from.file.Log.Level
		}
	}
	if f.embedded && !f.detached {
		// The log is part of a program's own output: say only what it must know.
		f.logFormat = cmp.Or(f.logFormat, "text")
		if !c.Flags().Changed("log-level") {
			f.logLevel = slog.LevelWarn
		}
	}
	for _, override := range []struct {
		flag string
		to   *string
	}{{f.http, &opts.HTTPAddress}, {f.admin, &opts.AdminAddress}, {f.interpreter, &opts.Interpreter}, {t.token, &opts.Token}} {
		if override.flag != "" {
			*override.to = override.flag
		}
	}
	if opts.HTTPAddress == "" {
		opts.HTTPAddress = "127.0.0.1:8000"
	}
	if opts.AdminAddress == "" {
		opts.AdminAddress = defaultAdmin(opts.HTTPAddress)
	}
	if f.tokenFile == "" && from.file != nil {
		f.tokenFile = from.file.Admin.TokenFile
	}
	if opts.Interpreter == "" { // the console script of the Python package says whose it is
		opts.Interpreter = os.Getenv("SHOAL_PYTHON")
	}
	if f.tokenFile != "" {
		token, err := os.ReadFile(f.tokenFile)
		if err != nil {
			return opts, fmt.Errorf("reading the token: %w", err)
		}
		opts.Token = strings.TrimSpace(string(token))
	}
	opts.Version = version()
	opts.Output = c.ErrOrStderr()
	var err error
	opts.Logger, err = telemetry.NewLogger(c.ErrOrStderr(), f.logFormat, f.logLevel)
	if err != nil {
		return opts, &usageError{err}
	}
	return opts, nil
}

// deploy deploys what the argument names.
func (f *serveFlags) deploy(ctx context.Context, s *server.Server, from source, log *slog.Logger, stderr io.Writer) error {
	switch {
	case from.file != nil:
		return s.Apply(ctx, from.file)
	case from.object != "":
		return f.deployObject(ctx, s, from)
	case from.script != "":
		log.Info("running", "file", from.script)
		return s.RunScript(ctx, from.script, stderr)
	}
	return nil
}

func (f *serveFlags) deployObject(ctx context.Context, s *server.Server, from source) error {
	path, err := filepath.Abs(from.script)
	if err != nil {
		return fmt.Errorf("serving %s: %w", from.script, err)
	}
	raw := make(map[string]any)
	for key, value := range f.model {
		raw[key] = value
		if json.Valid([]byte(value)) {
			raw[key] = json.RawMessage(value)
		}
	}
	patch, err := json.Marshal(raw)
	if err != nil {
		return fmt.Errorf("serving %s: %w", from.script, err)
	}
	config, err := serving.DecodeConfig(serving.Config{}, patch)
	if err != nil {
		return err
	}
	name := from.object
	spec := python.Spec{Source: python.Source{Kind: "file", Path: path, Object: name}}
	if err := s.Deploy(ctx, name, spec, config); err != nil {
		return err
	}
	route := f.route
	if route == "" {
		route = "/" + name
	}
	_, err = s.Registry.CreateEndpoint(name, serving.EndpointSpec{Backend: name, Route: route, Methods: slices.Clone(f.methods)})
	return err
}

// announce says that the server is up: to a program, or to a person.
func (f *serveFlags) announce(c *cobra.Command, s *server.Server, log *slog.Logger) {
	if f.embedded {
		_ = json.NewEncoder(c.OutOrStdout()).Encode(map[string]any{
			"ready": true, "http_address": s.HTTPAddress(), "admin_address": s.AdminAddress(), "pid": os.Getpid(),
		})
		return
	}
	log.Info("serving", "http", "http://"+s.HTTPAddress(), "admin", s.AdminAddress())
	for _, e := range s.Registry.EndpointStatuses() {
		if e.Route != "" {
			log.Info("endpoint", "name", e.Name, "url", "http://"+s.HTTPAddress()+e.Route, "methods", e.Methods)
		}
	}
}
