package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/shoalserve/shoal/internal/front/admin"
	"github.com/shoalserve/shoal/internal/serving"
)

func newQuery(t *target) *cobra.Command {
	var data string
	var timeout time.Duration
	var caller string
	var priority int
	c := &cobra.Command{
		Use:   "query ENDPOINT [KEY=VALUE ...]",
		Short: "Ask an endpoint",
		Long: `Ask an endpoint, as a handle does: the model gets the keyword arguments, and data as its
first argument. Values that are JSON are taken as JSON, others as text.

  shoal query adder number=41
  shoal query embed text="a school of fish" normalize=true
  shoal query classify --data @image.json
  echo '[1, 2, 3]' | shoal query sum --data -`,
		Args:              args(cobra.MinimumNArgs(1)),
		ValidArgsFunction: t.complete(endpointNames),
		RunE: func(c *cobra.Command, given []string) error {
			spec := admin.QuerySpec{Timeout: serving.Duration(timeout), Caller: caller, Priority: priority}
			var err error
			if spec.Kwargs, err = parsePairs(given[1:]); err != nil {
				return err
			}
			if spec.Data, err = readData(data, c.InOrStdin()); err != nil {
				return err
			}
			var answer admin.Answer
			err = t.ask(func(client *admin.Client) (err error) {
				answer, err = client.Query(c.Context(), given[0], spec)
				return err
			})
			if err != nil {
				return err
			}
			return t.writeAnswer(c.OutOrStdout(), answer)
		},
	}
	c.Flags().StringVar(&data, "data", "", "the first argument: `JSON`, @FILE, or - for standard input")
	c.Flags().DurationVar(&timeout, "timeout", 0, "how long to wait (default the backend's timeout)")
	c.Flags().StringVar(&caller, "caller", "", "for whom: callers get fair shares of a backend")
	c.Flags().IntVar(&priority, "priority", 0, "from -3 to 3: queries of a higher one leave first")
	return c
}

// parsePairs reads KEY=VALUE arguments.
func parsePairs(pairs []string) (map[string]json.RawMessage, error) {
	values := make(map[string]json.RawMessage)
	for _, pair := range pairs {
		key, value, ok := strings.Cut(pair, "=")
		if !ok || key == "" {
			return nil, &usageError{fmt.Errorf("%q is not KEY=VALUE", pair)}
		}
		values[key] = jsonOrText(value)
	}
	return values, nil
}

// jsonOrText takes a value as JSON if it is, else as a text.
func jsonOrText(value string) json.RawMessage {
	if json.Valid([]byte(value)) {
		return json.RawMessage(value)
	}
	quoted, err := json.Marshal(value)
	if err != nil { // a text always can be
		panic(err)
	}
	return quoted
}

func readData(data string, stdin io.Reader) (json.RawMessage, error) {
	raw, err := []byte(data), error(nil)
	switch {
	case data == "":
		return nil, nil
	case data == "-":
		raw, err = io.ReadAll(stdin)
	case data[0] == '@':
		raw, err = os.ReadFile(data[1:])
	}
	if err != nil {
		return nil, fmt.Errorf("reading the data: %w", err)
	}
	if !json.Valid(raw) {
		return nil, &usageError{errors.New("--data is not JSON; a text needs its quotes: --data '\"text\"'")}
	}
	return raw, nil
}

func (t *target) writeAnswer(out io.Writer, a admin.Answer) error {
	kind, _, _ := strings.Cut(a.Header.Get("Content-Type"), ";")
	if t.json && kind != "application/json" {
		return writeJSON(out, string(a.Body))
	}
	if _, err := out.Write(a.Body); err != nil {
		return err
	}
	if len(a.Body) > 0 && a.Body[len(a.Body)-1] != '\n' && kind != "application/octet-stream" {
		fmt.Fprintln(out)
	}
	return nil
}

// withTraceback shows where in the model an error was raised.
func withTraceback(err error) error {
	if model, ok := errors.AsType[*serving.ModelError](err); ok && model.Traceback != "" {
		return fmt.Errorf("%w\n%s", err, model.Traceback)
	}
	return err
}
