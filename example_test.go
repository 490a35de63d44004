package shoal_test

import (
	"context"
	"fmt"
	"log"

	"github.com/shoalserve/shoal"
)

// addOne is a vectorised model: one call for all queries of a batch.
func addOne(_ context.Context, numbers []int) ([]int, error) {
	sums := make([]int, len(numbers))
	for i, n := range numbers {
		sums[i] = n + 1
	}
	return sums, nil
}

// newAdder returns an app that serves addOne as endpoint "adder".
func newAdder(ctx context.Context) *shoal.App {
	app := shoal.New(shoal.Options{})
	if err := app.CreateBackend(ctx, "adder:v1", shoal.Batch(addOne), shoal.Config{MaxBatchSize: 4}); err != nil {
		log.Fatal(err)
	}
	if err := app.CreateEndpoint("adder", shoal.Endpoint{Backend: "adder:v1", Route: "/adder"}); err != nil {
		log.Fatal(err)
	}
	return app
}

// must ends an example whose set-up fails.
func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

// A backend, an endpoint, a handle; nine queries at once.
func Example() {
	ctx := context.Background()
	app := shoal.New(shoal.Options{})
	defer app.Close(ctx)

	must(app.CreateBackend(ctx, "adder:v1", shoal.Batch(addOne), shoal.Config{MaxBatchSize: 4}))
	must(app.CreateEndpoint("adder", shoal.Endpoint{Backend: "adder:v1", Route: "/adder"}))

	adder, err := shoal.GetHandle[int, int](app, "adder")
	must(err)
	var refs []*shoal.Ref[int]
	for i := range 9 {
		refs = append(refs, adder.Remote(ctx, i)) // returns at once
	}
	for _, ref := range refs {
		sum, err := ref.Get(ctx)
		must(err)
		fmt.Print(sum, " ")
	}
	// Output: 1 2 3 4 5 6 7 8 9
}
