package shoal

import (
	"context"
	"fmt"

	"github.com/shoalserve/shoal/internal/serving"
)

// Verification says what [App.Verify] computes. Without items it is the endpoint's example.
type Verification struct {
	// Items are queries: an [Example] is one over HTTP, any other value one of a handle's.
	// Values are written as JSON and read anew for each batch.
	Items []any
	// Compare says when two answers are the same.
	Compare Compare
	// Seed is that of the order of the items. The same seed is the same order.
	Seed uint64
}

// VerifyReport is what came of verifying a backend.
type VerifyReport = serving.VerifyReport

// VerifyCase is one kind of company of a [VerifyReport]'s items.
type VerifyCase = serving.VerifyCase

// Drift is an answer of a [VerifyReport] that was another one than the item gets alone.
type Drift = serving.Drift

// Verify tells whether answers depend on the batch, as shoal verify does: on a replica of
// its own, which gets no other queries, each backend of an endpoint's traffic computes each
// item alone, twice, and in batches of 2, 4 … and MaxBatchSize, in random orders; if the model
// reads requests itself, or takes texts or bytes, also beside one that means nothing. It returns
// a report for each backend. An endpoint that does not exist is [ErrEndpointNotFound], items
// that the model cannot take are [ErrInvalidArgument], and a batch that does not end within
// the backend's timeout is [ErrDeadlineExceeded]; a replica that cannot start is a *[LoadError].
func (a *App) Verify(ctx context.Context, endpoint string, v Verification) ([]VerifyReport, error) {
	spec := serving.VerifySpec{Compare: v.Compare, Seed: v.Seed}
	for i, value := range v.Items {
		item, err := newItem(value)
		if err != nil {
			return nil, fmt.Errorf("item %d: %w", i, err)
		}
		spec.Items = append(spec.Items, item)
	}
	return a.registry.Verify(ctx, endpoint, spec)
}

// newItem is an item as the server takes it.
func newItem(value any) (item serving.WarmUpRequest, err error) {
	if example, ok := value.(Example); ok {
		e, err := example.internal()
		if err != nil {
			return item, serving.Errorf(serving.InvalidArgument, "%v", err)
		}
		item.Example = *e
		return item, nil
	}
	args, err := newArgs(value)
	if err != nil {
		return item, serving.Errorf(serving.InvalidArgument, "%v", err)
	}
	item.Data, item.Kwargs = args.Data, args.Kwargs
	return item, nil
}
