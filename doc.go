// Package shoal serves models and batches queries opportunistically: queries
// arrive one at a time, and whenever a replica is free it takes everything that
// waits, up to MaxBatchSize, in one vectorised call.
//
//	app := shoal.New(shoal.Options{})
//	defer app.Close(ctx)
//
//	// A backend is a named model version; an endpoint is a name with a route and
//	// a split of its traffic over backends.
//	app.CreateBackend(ctx, "adder:v1", shoal.Batch(addOne), shoal.Config{MaxBatchSize: 4})
//	app.CreateEndpoint("adder", shoal.Endpoint{Backend: "adder:v1", Route: "/adder"})
//
//	// Over HTTP:
//	go app.ListenAndServe(ctx, "127.0.0.1:8000")
//
//	// From code; Remote returns a reference at once:
//	adder, err := shoal.GetHandle[int, int](app, "adder")
//	ref := adder.Remote(ctx, 41)
//	sum, err := ref.Get(ctx)
//
// where addOne has the signature func(context.Context, []int) ([]int, error).
//
// Models are Go functions here ([Batch], [Single], [Stateful]); the shoal binary
// serves Python functions and classes with the same semantics. The batcher
// itself, without names, routes and traffic, is package batch.
package shoal
