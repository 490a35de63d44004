package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/agnivade/levenshtein"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// usageError is a mistake in how the command was called.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }

func (e *usageError) Unwrap() error { return e.err }

// group is a command that only holds others.
func group(use, short string, commands ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short, Args: known, RunE: showHelp}
	c.AddCommand(commands...)
	return c
}

func showHelp(c *cobra.Command, _ []string) error { return c.Help() }

// flagError makes cobra's judgement of flags a usage error, and names the flag
// that is near to one that does not exist.
func flagError(c *cobra.Command, err error) error {
	hint := ";"
	if unknown, ok := errors.AsType[*pflag.NotExistError](err); ok {
		if near := nearFlag(c, unknown.GetSpecifiedName()); near != "" {
			hint = fmt.Sprintf("; did you mean --%s? Or", near)
		}
	}
	return &usageError{fmt.Errorf("%w%s see %q", err, hint, c.CommandPath()+" --help")}
}

// nearFlag returns the command's flag whose name is nearest, when it is near.
func nearFlag(c *cobra.Command, name string) string {
	best, distance := "", len(name)/3+2
	c.Flags().VisitAll(func(f *pflag.Flag) {
		if d := levenshtein.ComputeDistance(name, f.Name); !f.Hidden && d < distance {
			best, distance = f.Name, d
		}
	})
	return best
}

// known refuses a word that is no command, and names those that are near.
func known(c *cobra.Command, given []string) error {
	if len(given) == 0 {
		return nil
	}
	hint := ";"
	c.SuggestionsMinimumDistance = 2
	if near := c.SuggestionsFor(given[0]); len(near) > 0 {
		hint = fmt.Sprintf("; did you mean %s? Or", strings.Join(near, " or "))
	}
	return &usageError{fmt.Errorf("there is no command %q%s see %q", given[0], hint, c.CommandPath()+" --help")}
}

// args makes cobra's judgement of positional arguments a usage error.
func args(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(c *cobra.Command, given []string) error {
		if err := check(c, given); err != nil {
			return &usageError{fmt.Errorf("%w; usage: %s", err, c.UseLine())}
		}
		return nil
	}
}
