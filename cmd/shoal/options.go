package main

import (
	"cmp"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/shoalserve/shoal/internal/auth"
	"github.com/shoalserve/shoal/internal/server"
	"github.com/shoalserve/shoal/internal/telemetry"
)

// options are the server's: what the flags say, else the config file, else the
// environment, else the defaults.
func (f *serveFlags) options(c *cobra.Command, t *target, from source) (opts server.Options, err error) {
	if from.file != nil {
		opts = server.OptionsOf(from.file)
	}
	opts.HTTPAddress = cmp.Or(f.http, opts.HTTPAddress, "127.0.0.1:8000")
	// The console script of the Python package says whose it is.
	opts.Interpreter = cmp.Or(f.interpreter, opts.Interpreter, os.Getenv("SHOAL_PYTHON"))
	if opts.AdminAddress = cmp.Or(f.admin, opts.AdminAddress); opts.AdminAddress == "" {
		if opts.AdminAddress, err = prepareDefaultAdmin(opts.HTTPAddress); err != nil {
			return opts, err
		}
	}
	opts.Version, opts.Output = version(), c.ErrOrStderr()
	if opts.Logger, err = f.logger(c, from); err != nil {
		return opts, err
	}
	token, place, err := f.token(t, from, opts.AdminAddress)
	if opts.Token = token; token != "" {
		opts.Logger.Info("whoever brings the token may run this server", "admin", opts.AdminAddress, "token", place)
	}
	return opts, err
}

// token is what clients on TCP may bring to be allowed everything, and where it is
// from. The environment's, which is the one that this user's clients send, is taken
// only where the server would else have no credential at all.
func (f *serveFlags) token(t *target, from source, admin string) (token, place string, err error) {
	path := f.tokenFile
	if path == "" && t.token != "" {
		return t.token, "--token", auth.CheckKey("--token", t.token)
	}
	if path == "" && from.file != nil {
		path = from.file.Admin.TokenFile
	}
	if path != "" {
		if token, err = auth.ReadKey(path); err != nil {
			err = fmt.Errorf("the admin token: %w", err)
		}
		return token, path, err
	}
	token = os.Getenv("SHOAL_TOKEN")
	if token == "" || strings.HasPrefix(admin, "unix:") || (from.file != nil && from.file.Auth != nil) {
		return "", "", nil
	}
	return token, "SHOAL_TOKEN", auth.CheckKey("SHOAL_TOKEN", token)
}

func (f *serveFlags) logger(c *cobra.Command, from source) (*slog.Logger, error) {
	format, level := f.logFormat, f.logLevel
	chosen := c.Flags().Changed("log-level")
	if from.file != nil {
		format = cmp.Or(format, from.file.Log.Format)
		if !chosen {
			level = from.file.Log.Level
		}
	}
	if f.embedded && !f.detached {
		// The log is part of a program's own output: say only what it must know.
		format = cmp.Or(format, "text")
		if !chosen {
			level = slog.LevelWarn
		}
	}
	f.level.Set(level)
	log, err := telemetry.NewLogger(c.ErrOrStderr(), format, &f.level)
	if err != nil {
		return nil, &usageError{err}
	}
	return log, nil
}

// prepareDefaultAdmin returns the default admin address, whose directory exists
// and is the user's own.
func prepareDefaultAdmin(httpAddress string) (string, error) {
	address := defaultAdmin(httpAddress)
	dir := filepath.Dir(strings.TrimPrefix(address, "unix:"))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("making the directory of sockets: %w", err)
	}
	return address, checkPrivate(dir)
}
