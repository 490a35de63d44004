// Command go serves a batched Go model, over HTTP and to a handle in the same process.
//
//	go run ./examples/go                          nine queries, in batches of 1, 4 and 4
//	go run ./examples/go -http 127.0.0.1:8000     and then serves until it is interrupted
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/shoalserve/shoal"
)

// addOne is a vectorised model: one call computes a whole batch.
func addOne(_ context.Context, numbers []int) ([]int, error) {
	fmt.Println("batch of", len(numbers))
	time.Sleep(200 * time.Millisecond) // a real model would be busy here
	sums := make([]int, len(numbers))
	for i, n := range numbers {
		sums[i] = n + 1
	}
	return sums, nil
}

func main() {
	address := flag.String("http", "", "serve HTTP on this `address` after the queries")
	flag.Parse()
	if err := run(*address); err != nil {
		log.Fatal(err)
	}
}

func run(address string) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	app := shoal.New(shoal.Options{})
	defer app.Close(context.WithoutCancel(ctx)) // finishes what was accepted, also after an interrupt

	if err := app.CreateBackend(ctx, "adder:v1", shoal.Batch(addOne), shoal.Config{MaxBatchSize: 4}); err != nil {
		return err
	}
	if err := app.CreateEndpoint("adder", shoal.Endpoint{Backend: "adder:v1", Route: "/adder"}); err != nil {
		return err
	}
	adder, err := shoal.GetHandle[int, int](app, "adder")
	if err != nil {
		return err
	}
	var refs []*shoal.Ref[int]
	for i := range 9 {
		refs = append(refs, adder.Remote(ctx, i)) // returns at once
	}
	for i, ref := range refs {
		sum, err := ref.Get(ctx)
		if err != nil {
			return err
		}
		fmt.Printf("%d + 1 = %d, computed in a batch of %d\n", i, sum, ref.Trip().BatchSize)
	}
	if address == "" {
		return nil
	}
	fmt.Printf("curl 'http://%s/adder?number=41'\n", address)
	return app.ListenAndServe(ctx, address)
}
