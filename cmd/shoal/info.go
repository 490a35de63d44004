package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/shoalserve/shoal/internal/config"
)

func newConfig() *cobra.Command {
	group := &cobra.Command{Use: "config", Short: "Check a config file, or print its schema", Args: args(cobra.NoArgs), RunE: showHelp}
	group.AddCommand(&cobra.Command{
		Use:   "schema",
		Short: "Print the JSON Schema of config files, for editors",
		Args:  args(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			_, err := c.OutOrStdout().Write(config.Schema)
			return err
		},
	}, &cobra.Command{
		Use:   "check FILE",
		Short: "Say what is wrong with a config file, by line and column",
		Args:  args(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, given []string) error {
			file, err := config.Load(given[0])
			if err != nil {
				return err
			}
			fmt.Fprintf(c.OutOrStdout(), "%s: %d backends, %d endpoints\n", given[0], len(file.Backends), len(file.Endpoints))
			return nil
		},
	})
	return group
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

func newVersion(t *target) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  args(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			facts := map[string]string{"version": version(), "go": runtime.Version(), "platform": runtime.GOOS + "/" + runtime.GOARCH}
			if info, ok := debug.ReadBuildInfo(); ok {
				for _, s := range info.Settings {
					if s.Key == "vcs.revision" {
						facts["commit"] = s.Value
					}
				}
			}
			if t.json {
				return writeJSON(c.OutOrStdout(), facts)
			}
			fmt.Fprintf(c.OutOrStdout(), "shoal %s (%s, %s)\n", facts["version"], facts["go"], facts["platform"])
			return nil
		},
	}
}
