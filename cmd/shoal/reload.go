package main

import (
	"context"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/shoalserve/shoal/internal/auth"
	"github.com/shoalserve/shoal/internal/config"
	"github.com/shoalserve/shoal/internal/front/admin"
	"github.com/shoalserve/shoal/internal/server"
	"github.com/shoalserve/shoal/internal/serving"
)

func newReload(t *target) *cobra.Command {
	var afresh bool
	c := &cobra.Command{
		Use:   "reload",
		Short: "Have the server read its file again, as SIGHUP does",
		Long: `Have the server read again what it was started with, and change what differs: backends whose
source or config changed, endpoints, traffic, the log level. Others are left alone, and no query is
lost. When anything is wrong, nothing changes and what was served is served on.

  shoal reload
  shoal reload --afresh      start every backend of the file anew, for code that it imports`,
		Args: args(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			return t.change(c, func(client *admin.Client) (any, error) { return client.Reload(c.Context(), afresh) })
		},
	}
	c.Flags().BoolVar(&afresh, "afresh", false, "start backends anew that did not change, too")
	return c
}

// reloading returns what a reload does: it reads the argument of "shoal serve"
// again. A Python file is deployed anew in any case: what it imports may differ.
func (f *serveFlags) reloading(c *cobra.Command, t *target, s *server.Server, given []string, started source) admin.Reload {
	return func(ctx context.Context, afresh bool) (done admin.Reloaded, err error) {
		from, err := parseSource(given)
		if err != nil {
			return done, err
		}
		token, _, err := f.token(t, started, s.AdminAddress()) // where it is does not change, what it is may
		if err != nil {
			return done, serving.Errorf(serving.InvalidArgument, "%v", err)
		}
		if err := s.ReopenAudit(); err != nil {
			return done, serving.Errorf(serving.InvalidArgument, "%v", err)
		}
		var next *auth.Prepared
		if from.file != nil {
			if next, err = s.PrepareAuth(from.file.Auth); err != nil {
				return done, err
			}
		}
		done.Applied, err = f.deploy(ctx, c, s, from, afresh || from.file == nil)
		if err != nil && next != nil {
			next.Discard()
		}
		if err != nil {
			return done, err
		}
		s.SetToken(token)
		if from.file == nil {
			return done, nil
		}
		if next != nil {
			next.Commit()
		}
		if !c.Flags().Changed("log-level") {
			f.level.Set(from.file.Log.Level)
		}
		done.Warnings = fixed(started.file, from.file)
		return done, nil
	}
}

// fixed names what a running server cannot change and a file says otherwise than
// the one that it was started with.
func fixed(started, now *config.File) (warnings []string) {
	was, is := fixedKeys(started), fixedKeys(now)
	for _, key := range slices.Sorted(maps.Keys(is)) {
		if !reflect.DeepEqual(was[key], is[key]) {
			warnings = append(warnings, key+" differs, which takes a restart of the server")
		}
	}
	return warnings
}

// fixedKeys are what a file says that only a start reads, by section and key.
func fixedKeys(file *config.File) map[string]any {
	keys := map[string]any{"python.interpreter": file.Python.Interpreter, "log.format": file.Log.Format,
		"python.allow_pickle": file.Python.AllowPickle, "audit.file": file.Audit.File,
		"python.pass_env": file.Python.PassEnv, "python.user": file.Python.User}
	for section, fields := range map[string]any{"http": file.HTTP, "admin": file.Admin, "tls": file.TLS} {
		for field, value := range reflect.ValueOf(fields).Fields() {
			name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
			keys[section+"."+name] = value.Interface()
		}
	}
	return keys
}

// reloadedInWords says what a reload changed, in a line for each kind of change.
func reloadedInWords(r admin.Reloaded) string {
	var lines []string
	for _, change := range []struct {
		what  string
		names []string
	}{
		{"deployed", r.Deployed}, {"updated", r.Updated}, {"removed", r.Removed},
		{"changed endpoints", r.Endpoints}, {"removed endpoints", r.RemovedEndpoints},
	} {
		if len(change.names) > 0 {
			lines = append(lines, change.what+": "+strings.Join(change.names, ", "))
		}
	}
	if len(lines) == 0 {
		lines = []string{"nothing changed"}
	}
	return strings.Join(append(lines, r.Warnings...), "\n")
}
