package main

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/fatih/color"
	"github.com/spf13/cobra"

	"github.com/shoalserve/shoal/internal/front/admin"
	"github.com/shoalserve/shoal/internal/serving"
	"github.com/shoalserve/shoal/internal/telemetry"
)

func newStatus(t *target) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show what is deployed and how it does",
		Long: `Show the server's backends with their replicas, queues and batches, and its endpoints
with their routes and traffic.

  shoal status
  shoal status --json | jq '.backends[].stats.batch_sizes'`,
		Args: args(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			client, err := t.dial()
			if err != nil {
				return err
			}
			defer client.Close()
			status, err := client.Status(c.Context())
			if err != nil {
				return err
			}
			if t.json {
				return writeJSON(c.OutOrStdout(), status)
			}
			return writeStatus(c.OutOrStdout(), status)
		},
	}
}

func writeStatus(out io.Writer, s admin.Status) error {
	ready := "ready"
	if !s.Ready {
		ready = cmp.Or(s.NotReady, "not ready")
	}
	up := time.Duration(s.UptimeSeconds * float64(time.Second)).Round(time.Second)
	fmt.Fprintf(out, "shoal %s at http://%s, pid %d, up %v: %s\n\n", s.Version, s.HTTPAddress, s.PID, up, paint(out, s.Ready, ready))
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "BACKEND\tKIND\tSTATE\tREPLICAS\tQUEUED\tRUNNING\tANSWERED\tFAILED\tREFUSED\tBATCHES\tMEAN\tMAX")
	for _, b := range s.Backends {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%d\t%d\t%d\t%d\t%d\t%.1f\t%d\n", b.Name, b.Kind, b.State, replicas(b), b.Queued,
			b.Running, b.Stats.Answered, b.Stats.Failed, b.Stats.Refused, b.Stats.Batches, b.Stats.MeanBatch, b.Config.MaxBatchSize)
	}
	fmt.Fprintln(w, "\nENDPOINT\tROUTE\tMETHODS\tTRAFFIC\tSHADOW")
	for _, e := range s.Endpoints {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", e.Name, cmp.Or(e.Route, "-"), strings.Join(e.Methods, ","), shares(e.Traffic), shares(e.Shadows))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, e := range s.Endpoints {
		for _, shadow := range slices.Sorted(maps.Keys(e.Comparisons)) {
			c := e.Comparisons[shadow]
			fmt.Fprintf(out, "\n%s, shadow %s: %d answers compared, %s\n", e.Name, shadow, c.Compared, paint(out, c.Different == 0, fmt.Sprintf("%d differ", c.Different)))
		}
		if e.Canary != nil {
			fmt.Fprintf(out, "\n%s, canary %s\n", e.Name, canaryInWords(*e.Canary))
		}
	}
	for _, b := range s.Backends {
		if v := b.Verified; v.Same+v.Different > 0 {
			fmt.Fprintf(out, "\n%s: %d queries computed again alone, %s\n", b.Name, v.Same+v.Different, paint(out, v.Different == 0, fmt.Sprintf("%d differ", v.Different)))
		}
		for _, r := range b.Replicas {
			if r.Error != "" {
				fmt.Fprintln(out, paint(out, false, fmt.Sprintf("\n%s, replica %d: %s", b.Name, r.Index, r.Error)))
			}
		}
	}
	return nil
}

// replicas counts a backend's ready replicas, and all of them.
func replicas(b serving.BackendStatus) string {
	ready := 0
	for _, r := range b.Replicas {
		if r.State == serving.StateReady {
			ready++
		}
	}
	return fmt.Sprintf("%d/%d", ready, len(b.Replicas))
}

func shares(traffic map[string]float64) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(traffic)) {
		parts = append(parts, fmt.Sprintf("%s=%v", name, traffic[name]))
	}
	return cmp.Or(strings.Join(parts, " "), "-")
}

// paint colours a text by whether things are well, on a terminal.
func paint(out io.Writer, well bool, text string) string {
	c := color.New(color.FgRed)
	if well {
		c = color.New(color.FgGreen)
	}
	if !telemetry.IsTerminal(out) {
		c.DisableColor()
	}
	return c.Sprint(text)
}
