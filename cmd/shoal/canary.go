package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/shoalserve/shoal/internal/front/admin"
	"github.com/shoalserve/shoal/internal/serving"
)

func newCanary(t *target) *cobra.Command {
	end := func(use, short string, do func(*admin.Client, *cobra.Command, string) (serving.CanaryStatus, error)) *cobra.Command {
		return &cobra.Command{
			Use: use + " ENDPOINT", Short: short, Long: short + ".\n\n  shoal canary " + use + " adder",
			Args: args(cobra.ExactArgs(1)), ValidArgsFunction: t.complete(endpointNames),
			RunE: func(c *cobra.Command, given []string) error {
				return t.change(c, func(client *admin.Client) (any, error) { return do(client, c, given[0]) })
			},
		}
	}
	return group("canary", "Have a new version take over step by step", newCanaryStart(t),
		end("status", "Show an endpoint's canary, or its last one", func(client *admin.Client, c *cobra.Command, name string) (s serving.CanaryStatus, err error) {
			e, err := client.Endpoint(c.Context(), name)
			if err == nil && e.Canary == nil {
				err = fmt.Errorf("endpoint %q has no canary", name)
			}
			if err != nil {
				return s, err
			}
			return *e.Canary, nil
		}),
		end("abort", "Turn a canary back: the traffic is what it was before", func(client *admin.Client, c *cobra.Command, name string) (serving.CanaryStatus, error) {
			return client.AbortCanary(c.Context(), name)
		}),
		end("promote", "Give a canary all of the traffic now", func(client *admin.Client, c *cobra.Command, name string) (serving.CanaryStatus, error) {
			return client.PromoteCanary(c.Context(), name)
		}))
}

func newCanaryStart(t *target) *cobra.Command {
	var spec serving.CanarySpec
	var how serving.Compare
	var stepTime time.Duration
	var compare bool
	c := &cobra.Command{
		Use:   "start ENDPOINT BACKEND",
		Short: "Shift an endpoint's traffic to a backend in steps, and back if it does worse",
		Long: `Shift an endpoint's traffic to a backend in steps. It is turned back when significantly more of
its queries fail than of the others, when it is slower than allowed, or, with --compare, when its
answers to copies of queries differ from the others'.

  shoal canary start adder adder:v2 --steps 0.05,0.5 --step-time 5m
  shoal canary start adder adder:v2 --max-latency-ratio 1.5 --compare --tolerance 1e-3`,
		Args:              args(cobra.ExactArgs(2)),
		ValidArgsFunction: t.complete(endpointNames),
		RunE: func(c *cobra.Command, given []string) error {
			spec.Backend, spec.StepTime = given[1], serving.Duration(stepTime)
			if compare {
				spec.Compare = &how
			}
			return t.change(c, func(client *admin.Client) (any, error) { return client.StartCanary(c.Context(), given[0], spec) })
		},
	}
	flags := c.Flags()
	flags.Float64SliceVar(&spec.Steps, "steps", nil, "the canary's shares of the traffic (default 0.05,0.25,0.5,1)")
	flags.DurationVar(&stepTime, "step-time", 0, "how long each step takes at least (default 1m)")
	flags.IntVar(&spec.MinQueries, "min-queries", 0, "how many queries the canary answers in each step at least (default 50)")
	flags.Float64Var(&spec.MaxErrorRate, "max-error-rate", 0, "turn it back when more of its queries fail (default none)")
	flags.Float64Var(&spec.MaxLatencyRatio, "max-latency-ratio", 0, "turn it back when its mean or 99th percentile is so many times the others' (default none)")
	flags.BoolVar(&compare, "compare", false, "compare its answers with the others' before it gets traffic")
	flags.Float64Var(&how.Tolerance, "tolerance", 0, "with --compare, how far numbers may be apart (default 1e-5)")
	flags.IntVar(&how.TopK, "top-k", 0, "with --compare, compare longer lists of numbers by the places of so many largest")
	flags.StringSliceVar(&how.Ignore, "ignore", nil, "with --compare, `paths` into JSON that are not looked at, such as took or items.*.id")
	flags.IntVar(&spec.MinCompared, "min-compared", 0, "with --compare, how many answers (default 100)")
	flags.Float64Var(&spec.MaxDifferent, "max-different", 0, "with --compare, what part of them may differ (default 0)")
	return c
}

// canaryInWords says how a canary stands.
func canaryInWords(s serving.CanaryStatus) string {
	line := fmt.Sprintf("%s: %s, weight %v, step %d of %d", s.Backend, s.State, s.Weight, s.Step, s.Steps)
	if s.Reason != "" {
		line += ": " + s.Reason
	}
	if c := s.Comparison; c != nil {
		line += fmt.Sprintf("\n%d answers compared, %d differ", c.Compared, c.Different)
		for _, sample := range c.Samples {
			line += "\n  " + sample
		}
	}
	arm := func(name string, a serving.ArmStatus) string {
		return fmt.Sprintf("\n%s: %d queries, %d failed, mean %v, p99 %v", name, a.Queries, a.Errors,
			time.Duration(a.Mean).Round(time.Microsecond), time.Duration(a.P99).Round(time.Microsecond))
	}
	return line + arm("canary", s.Canary) + arm("others", s.Baseline)
}
