package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/fatih/color"
	"github.com/spf13/cobra"

	"github.com/shoalserve/shoal/internal/telemetry"
)

func newLogs(t *target) *cobra.Command {
	var follow bool
	var tail int
	c := &cobra.Command{
		Use:   "logs [BACKEND]",
		Short: "Show what models print",
		Long: `Show the last lines that models wrote to standard output and error.

  shoal logs                   of all backends
  shoal logs adder:v1 -f       of one, and each new line`,
		Args:              args(cobra.MaximumNArgs(1)),
		ValidArgsFunction: t.complete(backendNames),
		RunE: func(c *cobra.Command, given []string) error {
			backend := ""
			if len(given) == 1 {
				backend = given[0]
			}
			client, err := t.dial()
			if err != nil {
				return err
			}
			defer client.Close()
			out := c.OutOrStdout()
			name := color.New(color.FgCyan)
			if !telemetry.IsTerminal(out) {
				name.DisableColor()
			}
			for line, err := range client.Logs(c.Context(), backend, tail, follow) {
				switch {
				case errors.Is(err, context.Canceled):
					return nil // the user has seen enough
				case err != nil:
					return err
				case t.json:
					err = json.NewEncoder(out).Encode(line)
				default:
					_, err = fmt.Fprintf(out, "%s %s | %s\n", line.Time.Local().Format(time.TimeOnly), name.Sprint(line.Backend), line.Line)
				}
				if err != nil {
					return err
				}
			}
			return nil
		},
	}
	c.Flags().BoolVarP(&follow, "follow", "f", false, "go on with each new line")
	c.Flags().IntVar(&tail, "tail", 100, "how many past lines to show")
	return c
}
