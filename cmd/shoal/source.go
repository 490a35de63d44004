package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/shoalserve/shoal/internal/config"
	"github.com/shoalserve/shoal/internal/runtime/python"
	"github.com/shoalserve/shoal/internal/server"
	"github.com/shoalserve/shoal/internal/serving"
)

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

// modelFlags are the flags that only FILE.py:NAME takes; those that are config
// keys of the model are true.
var modelFlags = map[string]bool{
	"max-batch-size": true, "batch-wait-timeout": true, "latency-slo": true, "leave-at-once": true, "num-replicas": true, "route": false, "method": false,
}

// givenModelFlags returns the names of the model's flags that were given.
func givenModelFlags(c *cobra.Command) []string {
	var given []string
	for name := range modelFlags {
		if c.Flags().Changed(name) {
			given = append(given, "--"+name)
		}
	}
	slices.Sort(given)
	return given
}

// modelConfig is the config that the flags say, in JSON.
func modelConfig(c *cobra.Command) ([]byte, error) {
	patch := make(map[string]json.RawMessage)
	for name, isConfig := range modelFlags {
		if flag := c.Flags().Lookup(name); isConfig && flag.Changed {
			patch[strings.ReplaceAll(name, "-", "_")] = jsonOrText(flag.Value.String())
		}
	}
	return json.Marshal(patch)
}

// deploy deploys what the argument names; once more, with afresh, what did not
// change as well. Of what a script deploys the result says nothing.
func (f *serveFlags) deploy(ctx context.Context, c *cobra.Command, s *server.Server, from source, afresh bool) (done serving.Applied, err error) {
	switch {
	case from.file != nil:
		return s.Apply(ctx, from.file, afresh)
	case from.object != "":
		file, err := f.objectFile(c, from)
		if err != nil {
			return done, err
		}
		return s.Apply(ctx, file, afresh)
	case from.script != "":
		return done, s.RunScript(ctx, from.script, afresh, c.ErrOrStderr())
	}
	return done, nil
}

// objectFile is what a config file for one object of a Python file would say.
func (f *serveFlags) objectFile(c *cobra.Command, from source) (*config.File, error) {
	path, err := filepath.Abs(from.script)
	if err != nil {
		return nil, fmt.Errorf("serving %s: %w", from.script, err)
	}
	patch, err := modelConfig(c)
	if err != nil {
		return nil, fmt.Errorf("serving %s: %w", from.script, err)
	}
	wanted, err := serving.DecodeConfig(serving.Config{}, patch)
	if err != nil {
		return nil, err
	}
	name := from.object
	spec := python.Spec{Source: python.Source{Kind: "file", Path: path, Object: name}}
	return &config.File{
		Backends: map[string]config.Backend{name: {Spec: spec, Config: wanted}},
		Endpoints: map[string]config.Endpoint{name: {
			Route: cmp.Or(f.route, "/"+name), Methods: f.methods, Traffic: map[string]float64{name: 1},
		}},
	}, nil
}
