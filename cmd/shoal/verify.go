package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/shoalserve/shoal/internal/front/admin"
	"github.com/shoalserve/shoal/internal/serving"
)

// errDrift ends a verification that found what must not be.
var errDrift = errors.New("answers depend on the company that queries are in")

func newVerify(t *target) *cobra.Command {
	var items string
	var spec serving.VerifySpec
	c := &cobra.Command{
		Use:   "verify ENDPOINT",
		Short: "Check that answers do not depend on the batch",
		Long: `Check that a query gets the same answer in any company: items are computed alone, in
every batch size, in other orders and beside broken ones, on a replica that is started
for it, and their answers compared. The exit status is 1 when one differs.

Items are the endpoint's example, or those of a file, one in JSON a line: a web query as
in an example, {"query": {"number": 1}} or {"json": …}, or a handle's, {"data": …} or
{"kwargs": {…}}.

  shoal verify adder
  shoal verify embed --items queries.jsonl --tolerance 1e-3`,
		Args:              args(cobra.ExactArgs(1)),
		ValidArgsFunction: t.complete(endpointNames),
		RunE: func(c *cobra.Command, given []string) (err error) {
			if spec.Items, err = readItems(items, c.InOrStdin()); err != nil {
				return err
			}
			var v admin.Verification
			err = t.ask(func(client *admin.Client) (err error) {
				v, err = client.Verify(c.Context(), given[0], spec)
				return err
			})
			if err != nil {
				return err
			}
			return t.writeVerification(c.OutOrStdout(), v)
		},
	}
	c.Flags().StringVar(&items, "items", "", "`FILE` with a query in JSON on each line, or - for standard input")
	c.Flags().Float64Var(&spec.Compare.Tolerance, "tolerance", 0, "how far numbers may be apart, absolutely or in relation (default 1e-5)")
	c.Flags().IntVar(&spec.Compare.TopK, "top-k", 0, "compare longer lists of numbers by the places of their so many largest")
	c.Flags().StringSliceVar(&spec.Compare.Ignore, "ignore", nil, "`paths` in JSON that are not compared, such as took or items.*.id")
	c.Flags().Uint64Var(&spec.Seed, "seed", 0, "of the order of the items")
	return c
}

// readItems reads a file with one item a line; empty lines are left out.
func readItems(name string, stdin io.Reader) (items []serving.WarmUpRequest, err error) {
	var raw []byte
	switch name {
	case "":
		return nil, nil
	case "-":
		raw, err = io.ReadAll(stdin)
	default:
		raw, err = os.ReadFile(name)
	}
	if err != nil {
		return nil, fmt.Errorf("reading items: %w", err)
	}
	line := 0
	for text := range bytes.Lines(raw) {
		line++
		if text = bytes.TrimSpace(text); len(text) == 0 {
			continue
		}
		var item serving.WarmUpRequest
		d := json.NewDecoder(bytes.NewReader(text))
		d.DisallowUnknownFields()
		if err := d.Decode(&item); err != nil {
			return nil, &usageError{fmt.Errorf("%s, line %d is no item: %w", name, line, err)}
		}
		items = append(items, item)
	}
	return items, nil
}

// writeVerification writes the reports; the error is errDrift if something differed.
func (t *target) writeVerification(out io.Writer, v admin.Verification) error {
	var found error
	for _, r := range v.Reports {
		if r.Drifted > 0 {
			found = errDrift
		}
	}
	if t.json {
		return errors.Join(writeJSON(out, v), found)
	}
	for _, r := range v.Reports {
		fmt.Fprintf(out, "%s: %d items in %d batches\n\n", r.Backend, r.Items, r.Batches)
		table := tabwriter.NewWriter(out, 2, 0, 2, ' ', 0)
		fmt.Fprintln(table, "COMPANY\tSIZE\tANSWERS\tDIFFERED\tLARGEST DIFFERENCE\tBATCHES THAT RAISED")
		for _, c := range r.Cases {
			fmt.Fprintf(table, "%s\t%d\t%d\t%d\t%.3g\t%d\n", companies[c.Company], c.Size, c.Answers, c.Differed, c.Largest, c.Raised)
		}
		if err := table.Flush(); err != nil {
			return err
		}
		fmt.Fprintf(out, "\n%d answers differed", r.Drifted)
		if r.Leaked > 0 {
			fmt.Fprintf(out, ", %d of them were another item's", r.Leaked)
		}
		fmt.Fprintln(out)
		for _, d := range r.Drifts {
			fmt.Fprintf(out, "  item %d, %s of %d: %s%s\n", d.Item, companies[d.Company], d.Size, strings.TrimSpace(d.What), leaked(d))
		}
	}
	return found
}

// companies are a report's kinds in words.
var companies = map[string]string{"alone": "alone, again", "batch": "in a batch", "broken": "beside a broken one"}

func leaked(d serving.Drift) string {
	if d.Leak < 0 {
		return ""
	}
	return fmt.Sprintf(" (the answer of item %d)", d.Leak)
}
