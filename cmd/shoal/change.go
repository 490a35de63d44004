package main

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/shoalserve/shoal/internal/front/admin"
)

func newTraffic(t *target) *cobra.Command {
	group := &cobra.Command{Use: "traffic", Short: "Split an endpoint's traffic over backends", Args: args(cobra.NoArgs), RunE: showHelp}
	set := &cobra.Command{
		Use:   "set ENDPOINT BACKEND=WEIGHT ...",
		Short: "Set the weights, which sum to 1",
		Long: `Set the share of an endpoint's queries that each backend gets.

  shoal traffic set adder adder:v1=0.9 adder:v2=0.1     a canary
  shoal traffic set adder adder:v2=1                    all of it`,
		Args: args(cobra.MinimumNArgs(2)),
		RunE: func(c *cobra.Command, given []string) error {
			weights, err := parseWeights(given[1:])
			if err != nil {
				return err
			}
			return t.change(c, func(client *admin.Client) (any, error) {
				return client.SetTraffic(c.Context(), given[0], weights)
			})
		},
	}
	shadow := &cobra.Command{
		Use:   "shadow ENDPOINT BACKEND=PROPORTION",
		Short: "Send copies of queries to a backend whose answers are dropped",
		Long: `Send a proportion of an endpoint's queries to a second backend too; nobody sees its answers.

  shoal traffic shadow adder adder:v2=0.1
  shoal traffic shadow adder adder:v2=0                 stop it`,
		Args: args(cobra.ExactArgs(2)),
		RunE: func(c *cobra.Command, given []string) error {
			weights, err := parseWeights(given[1:])
			if err != nil {
				return err
			}
			return t.change(c, func(client *admin.Client) (answer any, err error) {
				for backend, proportion := range weights {
					answer, err = client.Shadow(c.Context(), given[0], backend, proportion)
				}
				return answer, err
			})
		},
	}
	group.AddCommand(set, shadow)
	return group
}

func newBackend(t *target) *cobra.Command {
	group := &cobra.Command{Use: "backend", Short: "Change or delete a backend", Args: args(cobra.NoArgs), RunE: showHelp}
	update := &cobra.Command{
		Use:   "update NAME KEY=VALUE ...",
		Short: "Change a backend's config while it serves",
		Long: `Change a backend's config. Limits apply at once; replicas start and stop without losing
a query.

  shoal backend update adder:v1 max_batch_size=64 batch_wait_timeout=2ms
  shoal backend update adder:v1 num_replicas=2`,
		Args: args(cobra.MinimumNArgs(2)),
		RunE: func(c *cobra.Command, given []string) error {
			pairs, err := parsePairs(given[1:])
			if err != nil {
				return err
			}
			patch, err := json.Marshal(pairs)
			if err != nil {
				return err
			}
			return t.change(c, func(client *admin.Client) (any, error) {
				return client.UpdateConfig(c.Context(), given[0], patch)
			})
		},
	}
	remove := &cobra.Command{
		Use:   "delete NAME",
		Short: "Delete a backend that no endpoint uses",
		Args:  args(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, given []string) error {
			return t.change(c, func(client *admin.Client) (any, error) { return nil, client.DeleteBackend(c.Context(), given[0]) })
		},
	}
	group.AddCommand(update, remove)
	return group
}

func newEndpoint(t *target) *cobra.Command {
	group := &cobra.Command{Use: "endpoint", Short: "Delete an endpoint", Args: args(cobra.NoArgs), RunE: showHelp}
	group.AddCommand(&cobra.Command{
		Use:   "delete NAME",
		Short: "Delete an endpoint and leave its backends alone",
		Args:  args(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, given []string) error {
			return t.change(c, func(client *admin.Client) (any, error) { return nil, client.DeleteEndpoint(c.Context(), given[0]) })
		},
	})
	return group
}

func showHelp(c *cobra.Command, _ []string) error { return c.Help() }

// change makes a change on the server; programs are shown what came of it.
func (t *target) change(c *cobra.Command, do func(*admin.Client) (any, error)) error {
	client, err := t.dial()
	if err != nil {
		return err
	}
	defer client.Close()
	result, err := do(client)
	if err != nil || !t.json || result == nil {
		return err
	}
	return writeJSON(c.OutOrStdout(), result)
}

// parseWeights reads BACKEND=WEIGHT arguments.
func parseWeights(pairs []string) (map[string]float64, error) {
	weights := make(map[string]float64)
	for _, pair := range pairs {
		i := strings.LastIndexByte(pair, '=')
		if i < 1 {
			return nil, &usageError{fmt.Errorf("%q is not BACKEND=WEIGHT", pair)}
		}
		weight, err := strconv.ParseFloat(pair[i+1:], 64)
		if err != nil {
			return nil, &usageError{fmt.Errorf("%q: %q is not a number", pair, pair[i+1:])}
		}
		weights[pair[:i]] = weight
	}
	return weights, nil
}
