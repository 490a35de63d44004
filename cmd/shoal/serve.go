package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/shoalserve/shoal/internal/server"
)

// serveFlags are the flags of "shoal serve".
type serveFlags struct {
	http, admin, tokenFile, interpreter string
	logFormat                           string
	logLevel                            slog.Level
	level                               slog.LevelVar // in force: the flag's, or the config file's
	embedded, detached                  bool

	report bool // to a program, on standard output

	// For FILE.py:NAME.
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

It stops on SIGINT or SIGTERM: new queries are refused, accepted ones are finished. A
second signal, a second or more after the first, does not wait for them. With http.shutdown_delay
in the config file, /readyz says at once that the server is not ready, and new queries are refused
so much later; a second signal ends the delay. On SIGHUP, or "shoal reload", it reads the file again and
changes what differs, without losing a query; when something is wrong with it, what was served is
served on. When the terminal is closed that it was started in, it stops, unless it was started
with nohup. With --json it says on standard output when it is
ready, and where, in one line.`,
		Args:              args(cobra.MaximumNArgs(1)),
		ValidArgsFunction: cobra.FixedCompletions([]string{"py", "yaml", "yml"}, cobra.ShellCompDirectiveFilterFileExt),
		RunE: func(c *cobra.Command, given []string) error {
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
	flags.Duration("latency-slo", 0, "for FILE.py:NAME, the objective for the time from a query's arrival to its answer")
	flags.Bool("leave-at-once", false, "for FILE.py:NAME, never hold a batch back, even where it was learned that this pays")
	flags.Int("num-replicas", 0, "for FILE.py:NAME, how many workers to start")
	flags.StringVar(&f.route, "route", "", "for FILE.py:NAME, the `path` to serve it at (default /NAME)")
	flags.StringSliceVar(&f.methods, "method", []string{http.MethodGet, http.MethodPost}, "for FILE.py:NAME, the HTTP `methods`")
	flags.BoolVar(&f.embedded, "embedded", false, "stop when standard input ends; report on standard output")
	flags.BoolVar(&f.detached, "detached", false, "with --embedded, do not watch standard input")
	cobra.CheckErr(flags.MarkHidden("embedded"))
	cobra.CheckErr(flags.MarkHidden("detached"))
	return c
}

// run serves, and tells a program that waits for it why it could not.
func (f *serveFlags) run(c *cobra.Command, t *target, given []string) error {
	f.report = f.embedded || t.json
	announced, err := f.serve(c, t, given)
	if err != nil && f.report && !announced {
		err = errors.Join(err, json.NewEncoder(c.OutOrStdout()).Encode(notReady{Error: err.Error()}))
	}
	return err
}

func (f *serveFlags) serve(c *cobra.Command, t *target, given []string) (announced bool, err error) {
	from, err := parseSource(given)
	if err != nil {
		return false, err
	}
	if flags := givenModelFlags(c); len(flags) > 0 && from.object == "" {
		return false, &usageError{fmt.Errorf("%s: only for FILE.py:NAME; elsewhere the file says it", strings.Join(flags, ", "))}
	}
	opts, err := f.options(c, t, from)
	if err != nil {
		return false, err
	}
	ctx, cancel := context.WithCancel(c.Context())
	defer cancel()
	hangups, asked := catchHangups(), catchStops()
	if f.embedded && !f.detached {
		go func() { // ends with standard input, at the latest with the process
			_, _ = io.Copy(io.Discard, c.InOrStdin())
			cancel()
		}()
	}
	s, err := server.New(opts)
	if err != nil {
		return false, err
	}
	defer asked.watch(ctx, s)()
	outliveReaders()
	if len(given) > 0 {
		s.Reloading(f.reloading(c, t, s, given, from))
	}
	deployed := s.Deploying()
	ran := make(chan error, 1)
	go func() { // ends with ctx, and is waited for below
		defer cancel() // without a server there is no reason to deploy on
		ran <- s.Run(ctx)
	}()
	if _, err := f.deploy(ctx, c, s, from, false); err != nil {
		if asked := ctx.Err() != nil; asked { // to stop, by whoever started it, or because Run failed
			err = nil
		}
		cancel()
		return false, errors.Join(err, <-ran)
	}
	deployed()
	if err := f.announce(c, s, opts.Logger); err != nil {
		s.Hasten()
		cancel()
		return true, errors.Join(err, <-ran)
	}
	stopWatching := hangups.watch(ctx, cancel, s, opts.Logger)
	err = <-ran
	stopWatching()
	opts.Logger.Info("stopped")
	return true, err
}

// outliveReaders keeps the process alive when nobody reads its output any more,
// such as a program that ended: what it accepted is to be finished. The log is lost.
func outliveReaders() {
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE) // which nobody receives; only the default is to go
}

// ready and notReady are what a program is told, in one line.
type ready struct {
	Ready        bool   `json:"ready"`
	HTTPAddress  string `json:"http_address"`
	AdminAddress string `json:"admin_address"`
	PID          int    `json:"pid"`
}

type notReady struct {
	Ready bool   `json:"ready"`
	Error string `json:"error"`
}

// announce says that the server is up: to a program, or to a person.
func (f *serveFlags) announce(c *cobra.Command, s *server.Server, log *slog.Logger) error {
	if f.report {
		report := ready{Ready: true, HTTPAddress: s.HTTPAddress(), AdminAddress: s.AdminAddress(), PID: os.Getpid()}
		return json.NewEncoder(c.OutOrStdout()).Encode(report)
	}
	log.Info("serving", "http", s.HTTPURL(), "admin", s.AdminAddress())
	for _, e := range s.Registry.EndpointStatuses() {
		if e.Route != "" {
			log.Info("endpoint", "name", e.Name, "url", s.HTTPURL()+e.Route, "methods", e.Methods)
		}
	}
	return nil
}
