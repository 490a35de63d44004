package main

import (
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/shoalserve/shoal/internal/config"
	"github.com/shoalserve/shoal/internal/server"
)

func newConfig(t *target) *cobra.Command {
	return group("config", "Check a config file, or print its schema", newConfigCheck(t), &cobra.Command{
		Use:   "schema",
		Short: "Print the JSON Schema of config files, for editors",
		Long: `Print the JSON Schema of config files. Editors complete and check with it; begin the file
with the line "# yaml-language-server: $schema=shoal.schema.json".

  shoal config schema > shoal.schema.json`,
		Args: args(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			_, err := c.OutOrStdout().Write(config.Schema)
			return err
		},
	})
}

func newConfigCheck(t *target) *cobra.Command {
	var syntaxOnly bool
	c := &cobra.Command{
		Use:   "check FILE",
		Short: "Say what is wrong with a config file, by line and column",
		Long: `Read a config file as "shoal serve" would, and say all that is wrong with it at once; when the file
itself is right, also what it names and this machine lacks: files, programs, users, certificates,
keys. No model is run, and nothing is listened on.

  shoal config check shoal.yaml
  shoal config check shoal.yaml --syntax-only     of a file for another machine
  shoal config check shoal.yaml --json | jq '.errors[].line'`,
		Args: args(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, given []string) error {
			file, err := config.Load(given[0])
			if err == nil && !syntaxOnly {
				err = checkHere(t, file)
			}
			wrong, understood := errors.AsType[config.Errors](err)
			if err != nil && (!understood || !t.json) {
				return err
			}
			if t.json {
				return errors.Join(writeJSON(c.OutOrStdout(), checkOf(wrong)), err)
			}
			_, err = fmt.Fprintf(c.OutOrStdout(), "%s: %s, %s\n", given[0],
				count(len(file.Backends), "backend"), count(len(file.Endpoints), "endpoint"))
			return err
		},
	}
	c.Flags().BoolVar(&syntaxOnly, "syntax-only", false, "look only at the file, not at what it names on this machine")
	return c
}

// checkHere says what would keep "shoal serve" from starting with a file.
func checkHere(t *target, file *config.File) error {
	opts := server.OptionsOf(file)
	token, _, err := (&serveFlags{}).token(t, source{file: file}, opts.AdminAddress)
	if err != nil {
		return config.Errors{file.Wrong(err.Error(), "admin", "token_file")}
	}
	opts.Token = token
	return server.Check(file, opts)
}

// check is what programs are told of a config file.
type check struct {
	OK     bool          `json:"ok"`
	Errors config.Errors `json:"errors"`
}

func checkOf(wrong config.Errors) check {
	if wrong == nil {
		wrong = config.Errors{}
	}
	return check{OK: len(wrong) == 0, Errors: wrong}
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// release is set by the linker.
var release = ""

// version is the release, or what the build knows of its source.
func version() string {
	if release != "" {
		return release
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	return "devel"
}

// commit is the revision that was built, as far as the build knows it.
func commit() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				return s.Value
			}
		}
	}
	return ""
}

func newVersion(t *target) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  args(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			facts := map[string]string{"version": version(), "go": runtime.Version(), "platform": runtime.GOOS + "/" + runtime.GOARCH}
			built := facts["go"] + ", " + facts["platform"]
			if revision := commit(); revision != "" {
				facts["commit"] = revision
				built = "commit " + revision + ", " + built
			}
			if t.json {
				return writeJSON(c.OutOrStdout(), facts)
			}
			_, err := fmt.Fprintf(c.OutOrStdout(), "shoal %s (%s)\n", facts["version"], built)
			return err
		},
	}
}
