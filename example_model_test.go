package shoal_test

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/shoalserve/shoal"
)

// A function that computes one query at a time needs no slices.
func ExampleSingle() {
	ctx := context.Background()
	app := shoal.New(shoal.Options{})
	defer app.Close(ctx)

	shout := func(_ context.Context, text string) (string, error) { return strings.ToUpper(text), nil }
	must(app.CreateBackend(ctx, "shout:v1", shoal.Single(shout), shoal.Config{}))
	must(app.CreateEndpoint("shout", shoal.Endpoint{Backend: "shout:v1"}))

	handle, err := shoal.GetHandle[string, string](app, "shout")
	must(err)
	fmt.Println(handle.Call(ctx, "hello"))
	// Output: HELLO <nil>
}

// Scaler is a model with state: each replica has one of its own.
type Scaler struct{ factor float64 }

// Init loads what the model needs before its first batch.
func (s *Scaler) Init(context.Context) error {
	s.factor = 2.5
	return nil
}

// Predict computes one batch.
func (s *Scaler) Predict(_ context.Context, in []float64) ([]float64, error) {
	out := make([]float64, len(in))
	for i, x := range in {
		out[i] = s.factor * x
	}
	return out, nil
}

// Close releases what Init took, after the last batch.
func (s *Scaler) Close() error {
	fmt.Println("closed")
	return nil
}

// A type with Init, Predict and Close: Init and Close run once for each replica.
func ExampleStateful() {
	ctx := context.Background()
	app := shoal.New(shoal.Options{})

	scaler := shoal.Stateful(func() shoal.Predictor[float64, float64] { return &Scaler{} })
	must(app.CreateBackend(ctx, "scaler:v1", scaler, shoal.Config{NumReplicas: 2}))
	must(app.CreateEndpoint("scaler", shoal.Endpoint{Backend: "scaler:v1"}))

	handle, err := shoal.GetHandle[float64, float64](app, "scaler")
	must(err)
	fmt.Println(handle.Call(ctx, 4))
	must(app.Close(ctx))
	// Output:
	// 10 <nil>
	// closed
	// closed
}

// Single queries of a batch may fail; the others get their answers.
func ExampleItemErrors() {
	ctx := context.Background()
	app := shoal.New(shoal.Options{})
	defer app.Close(ctx)

	errOdd := errors.New("odd number")
	halve := func(_ context.Context, in []int) ([]int, error) {
		out, errs := make([]int, len(in)), make(shoal.ItemErrors, len(in))
		for i, n := range in {
			if n%2 != 0 {
				errs[i] = errOdd
			}
			out[i] = n / 2
		}
		return out, errs
	}
	must(app.CreateBackend(ctx, "halve:v1", shoal.Batch(halve), shoal.Config{}))
	must(app.CreateEndpoint("halve", shoal.Endpoint{Backend: "halve:v1"}))

	handle, err := shoal.GetHandle[int, int](app, "halve")
	must(err)
	even, odd := handle.Remote(ctx, 8), handle.Remote(ctx, 7)
	fmt.Println(even.Get(ctx))
	_, err = odd.Get(ctx)
	fmt.Println(err, errors.Is(err, errOdd))
	// Output:
	// 4 <nil>
	// backend "halve:v1": *errors.errorString: odd number true
}

// Translation is a query that must not share a batch with another language.
type Translation struct{ Language, Text string }

// Key tells which queries may share a batch.
func ExampleGoModel_key() {
	ctx := context.Background()
	app := shoal.New(shoal.Options{})
	defer app.Close(ctx)

	translate := shoal.Batch(func(_ context.Context, in []Translation) ([]string, error) {
		out := make([]string, len(in))
		for i, t := range in {
			if t.Language != in[0].Language {
				return nil, errors.New("two languages in one batch")
			}
			out[i] = t.Language + ": " + t.Text
		}
		return out, nil
	})
	translate.Key = func(t Translation) string { return t.Language }
	must(app.CreateBackend(ctx, "translate:v1", translate, shoal.Config{MaxBatchSize: 8}))
	must(app.CreateEndpoint("translate", shoal.Endpoint{Backend: "translate:v1"}))

	handle, err := shoal.GetHandle[Translation, string](app, "translate")
	must(err)
	german, french := handle.Remote(ctx, Translation{"de", "fish"}), handle.Remote(ctx, Translation{"fr", "fish"})
	fmt.Println(german.Get(ctx))
	fmt.Println(french.Get(ctx))
	// Output:
	// de: fish <nil>
	// fr: fish <nil>
}

// A query may hold several rows. Cost counts them, so that MaxBatchSize bounds
// rows; Split and Join let a query be larger than a batch.
func ExampleGoModel_rows() {
	ctx := context.Background()
	app := shoal.New(shoal.Options{})
	defer app.Close(ctx)

	double := shoal.Batch(func(_ context.Context, in [][]int) ([][]int, error) {
		out := make([][]int, len(in))
		for i, rows := range in {
			for _, x := range rows {
				out[i] = append(out[i], 2*x)
			}
		}
		return out, nil
	})
	double.Cost = func(rows []int) int { return len(rows) }
	double.Split = func(rows []int, most int) (parts [][]int) {
		for len(rows) > most {
			parts, rows = append(parts, rows[:most]), rows[most:]
		}
		return append(parts, rows)
	}
	double.Join = func(parts [][]int) (rows []int, err error) {
		for _, part := range parts {
			rows = append(rows, part...)
		}
		return rows, nil
	}
	must(app.CreateBackend(ctx, "double:v1", double, shoal.Config{MaxBatchSize: 4}))
	must(app.CreateEndpoint("double", shoal.Endpoint{Backend: "double:v1"}))

	handle, err := shoal.GetHandle[[]int, []int](app, "double")
	must(err)
	fmt.Println(handle.Call(ctx, []int{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}))
	fmt.Println(app.Backends()[0].Batches, "batches")
	// Output:
	// [2 4 6 8 10 12 14 16 18 20] <nil>
	// 3 batches
}

// Origin tells a model where its batch came from. One batch never holds both.
func ExampleOrigin() {
	ctx := context.Background()
	app := shoal.New(shoal.Options{})
	defer app.Close(ctx)

	where := func(ctx context.Context, in []string) ([]string, error) {
		out := make([]string, len(in))
		for i := range in {
			out[i] = shoal.Origin(ctx).String()
		}
		return out, nil
	}
	must(app.CreateBackend(ctx, "where:v1", shoal.Batch(where), shoal.Config{}))
	must(app.CreateEndpoint("where", shoal.Endpoint{Backend: "where:v1", Route: "/where"}))

	handle, err := shoal.GetHandle[string, string](app, "where")
	must(err)
	fmt.Println(handle.Call(ctx, ""))
	fmt.Println(get(app, "/where"))
	// Output:
	// api <nil>
	// web
}

func ExampleGoModel_warmUp() {
	app := shoal.New(shoal.Options{})
	defer app.Close(context.Background())
	model := shoal.Batch(func(_ context.Context, in []int) ([]int, error) {
		fmt.Println("a batch of", len(in))
		return in, nil
	})
	model.WarmUp = []int{0}
	if err := app.CreateBackend(context.Background(), "model", model, shoal.Config{MaxBatchSize: 6}); err != nil {
		fmt.Println(err)
	}
	// Output:
	// a batch of 1
	// a batch of 2
	// a batch of 4
	// a batch of 6
}
