package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/shoalserve/shoal/internal/auth"
)

// newKeyReport is a fresh key as programs are told of it.
type newKeyReport struct {
	Name   string   `json:"name"`
	Key    string   `json:"key"`
	SHA256 string   `json:"sha256"`
	Scopes []string `json:"scopes"`
}

func newKey(t *target) *cobra.Command {
	scopes := []string{string(auth.Query)}
	create := &cobra.Command{
		Use:   "new NAME",
		Short: "Make an API key, and print it once",
		Long: `Make an API key, and print it together with the lines for the config file, which hold
only its digest: nobody can print the key again.

  shoal key new alice
  shoal key new ci --scopes deploy,query`,
		Args: args(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, given []string) error {
			for _, s := range scopes {
				if !slices.Contains(auth.Scopes, auth.Scope(s)) {
					return &usageError{fmt.Errorf("%q is no scope; there are query, deploy, admin and metrics", s)}
				}
			}
			key, sha := auth.NewKey()
			if t.json {
				return writeJSON(c.OutOrStdout(), newKeyReport{given[0], key, sha, scopes})
			}
			_, err := fmt.Fprintf(c.OutOrStdout(), `key: %s

For the config file; clients send the header "Authorization: Bearer KEY":

auth:
  keys:
    %s: {scopes: [%s], sha256: "%s"}
`, key, given[0], strings.Join(scopes, ", "), sha)
			return err
		},
	}
	create.Flags().StringSliceVar(&scopes, "scopes", scopes, "what the key allows: query, deploy, admin, metrics")
	return group("key", "Make API keys", create)
}
