// Command shoal serves models with opportunistic batching, and runs such a server.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/shoalserve/shoal/internal/config"
)

// Exit statuses.
const (
	failure = 1
	misuse  = 2
)

func main() { os.Exit(run()) }

func run() int {
	if os.Getenv("GOGC") == "" {
		// The server's live heap is small and each request leaves some garbage:
		// at Go's default it would collect many times a second, at the cost of
		// throughput. This way it takes a few megabytes more.
		debug.SetGCPercent(400)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() { // ends with the process
		<-signals
		cancel()
		signal.Stop(signals) // the next one has its usual effect: it ends the process
	}()
	command := newRoot()
	err := command.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	if wrong, ok := errors.AsType[config.Errors](err); ok {
		fmt.Fprintln(os.Stderr, wrong) // each line begins with its place, for editors
	} else {
		fmt.Fprintln(os.Stderr, "shoal:", err)
	}
	if _, ok := errors.AsType[*usageError](err); ok {
		return misuse
	}
	return failure
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "shoal",
		Short: "Serve models; queries shoal into batches",
		Long: `Shoal serves models and batches opportunistically: whenever a replica of the model is
free it takes every query that waits, up to max_batch_size, in one call.

  shoal serve adder.py:adder            serve one Python function
  shoal serve shoal.yaml                serve what a config file describes
  shoal query adder number=41           ask an endpoint
  shoal status                          what is deployed and how it does`,
		SilenceErrors: true, SilenceUsage: true,
		Args: known,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	root.SetFlagErrorFunc(flagError)
	target := &target{}
	flags := root.PersistentFlags()
	flags.StringVar(&target.address, "server", os.Getenv("SHOAL_SERVER"), "admin `address` of the server: unix:/path or http://host:port (env SHOAL_SERVER)")
	flags.StringVar(&target.token, "token", "", "bearer `token` for a server on TCP (env SHOAL_TOKEN)")
	flags.BoolVar(&target.json, "json", false, "write JSON for programs")
	root.AddCommand(newServe(target), newStatus(target), newQuery(target), newVerify(target), newLogs(target), newTraffic(target),
		newBackend(target), newEndpoint(target), newReload(target), newCanary(target), newConfig(target), newKey(target), newVersion(target))
	return root
}
