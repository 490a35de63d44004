package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/shoalserve/shoal/internal/front/admin"
)

// completeTimeout bounds how long a shell waits after the Tab key.
const completeTimeout = time.Second

// complete offers names that the server knows for the first argument.
func (t *target) complete(names func(admin.Status) []string) cobra.CompletionFunc {
	return func(c *cobra.Command, given []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(given) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		client, err := t.dial()
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		defer client.Close()
		parent := c.Context()
		if parent == nil {
			parent = context.Background()
		}
		ctx, cancel := context.WithTimeout(parent, completeTimeout)
		defer cancel()
		status, err := client.Status(ctx)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return names(status), cobra.ShellCompDirectiveNoFileComp
	}
}

func backendNames(s admin.Status) (names []string) {
	for _, b := range s.Backends {
		names = append(names, b.Name)
	}
	return names
}

func endpointNames(s admin.Status) (names []string) {
	for _, e := range s.Endpoints {
		names = append(names, e.Name)
	}
	return names
}
