package main

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/shoalserve/shoal/internal/front/admin"
	"github.com/shoalserve/shoal/internal/serving"
)

func newTraffic(t *target) *cobra.Command {
	set := &cobra.Command{
		Use:   "set ENDPOINT BACKEND=WEIGHT ...",
		Short: "Set the weights, which sum to 1",
		Long: `Set the share of an endpoint's queries that each backend gets.

  shoal traffic set adder adder:v1=0.9 adder:v2=0.1     a canary
  shoal traffic set adder adder:v2=1                    all of it`,
		Args:              args(cobra.MinimumNArgs(2)),
		ValidArgsFunction: t.complete(endpointNames),
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
	var compare bool
	shadow := &cobra.Command{
		Use:   "shadow ENDPOINT BACKEND=PROPORTION",
		Short: "Send copies of queries to a backend whose answers are dropped",
		Long: `Send a proportion of an endpoint's queries to a second backend too; nobody sees its answers.

  shoal traffic shadow adder adder:v2=0.1
  shoal traffic shadow adder adder:v2=0.1 --compare     and compare its answers with the endpoint's
  shoal traffic shadow adder adder:v2=0                 stop it`,
		Args:              args(cobra.ExactArgs(2)),
		ValidArgsFunction: t.complete(endpointNames),
		RunE: func(c *cobra.Command, given []string) error {
			weights, err := parseWeights(given[1:])
			if err != nil {
				return err
			}
			return t.change(c, func(client *admin.Client) (answer any, err error) {
				for backend, proportion := range weights {
					if compare {
						answer, err = client.CompareShadow(c.Context(), given[0], backend, proportion, serving.Compare{})
					} else {
						answer, err = client.Shadow(c.Context(), given[0], backend, proportion)
					}
				}
				return answer, err
			})
		},
	}
	shadow.Flags().BoolVar(&compare, "compare", false, "compare its answers with the endpoint's; shoal status counts those that differ")
	return group("traffic", "Split an endpoint's traffic over backends", set, shadow)
}

func newBackend(t *target) *cobra.Command {
	update := &cobra.Command{
		Use:   "update NAME KEY=VALUE ...",
		Short: "Change a backend's config while it serves",
		Long: `Change a backend's config. Limits apply at once; replicas start and stop without losing
a query.

  shoal backend update adder:v1 max_batch_size=64 batch_wait_timeout=2ms
  shoal backend update adder:v1 num_replicas=2`,
		Args:              args(cobra.MinimumNArgs(2)),
		ValidArgsFunction: t.complete(backendNames),
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
		Long: `Delete a backend. What it accepted is answered first. One that an endpoint uses is
refused: move its traffic away before.

  shoal traffic set adder adder:v2=1
  shoal backend delete adder:v1`,
		Args:              args(cobra.ExactArgs(1)),
		ValidArgsFunction: t.complete(backendNames),
		RunE: func(c *cobra.Command, given []string) error {
			return t.change(c, func(client *admin.Client) (any, error) {
				return deleted{given[0]}, client.DeleteBackend(c.Context(), given[0])
			})
		},
	}
	return group("backend", "Change or delete a backend", update, remove)
}

func newEndpoint(t *target) *cobra.Command {
	return group("endpoint", "Delete an endpoint", &cobra.Command{
		Use:   "delete NAME",
		Short: "Delete an endpoint and leave its backends alone",
		Long: `Delete an endpoint: its route answers 404 from then on. Its backends stay.

  shoal endpoint delete adder`,
		Args:              args(cobra.ExactArgs(1)),
		ValidArgsFunction: t.complete(endpointNames),
		RunE: func(c *cobra.Command, given []string) error {
			return t.change(c, func(client *admin.Client) (any, error) {
				return deleted{given[0]}, client.DeleteEndpoint(c.Context(), given[0])
			})
		},
	})
}

// deleted is what came of a delete.
type deleted struct {
	Deleted string `json:"deleted"`
}

// change makes a change on the server and shows what came of it.
func (t *target) change(c *cobra.Command, do func(*admin.Client) (any, error)) error {
	var result any
	err := t.ask(func(client *admin.Client) (err error) {
		result, err = do(client)
		return err
	})
	if err != nil {
		return err
	}
	if t.json {
		return writeJSON(c.OutOrStdout(), result)
	}
	_, err = fmt.Fprintln(c.OutOrStdout(), inWords(result))
	return err
}

// inWords says what came of a change in a line.
func inWords(result any) string {
	switch r := result.(type) {
	case serving.EndpointStatus:
		line := fmt.Sprintf("%s: traffic %s", r.Name, shares(r.Traffic))
		if len(r.Shadows) > 0 {
			line += ", shadow " + shares(r.Shadows)
		}
		return line
	case serving.BackendStatus:
		config, err := json.Marshal(r.Config)
		if err != nil { // which it always can be
			panic(err)
		}
		return fmt.Sprintf("%s: %s, config %s", r.Name, r.State, config)
	case serving.CanaryStatus:
		return canaryInWords(r)
	case admin.Reloaded:
		return reloadedInWords(r)
	case deleted:
		return fmt.Sprintf("%s: deleted", r.Deleted)
	}
	return fmt.Sprint(result)
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
