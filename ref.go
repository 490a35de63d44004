package shoal

import (
	"context"
	"time"

	"github.com/shoalserve/shoal/batch"
)

// Ref is a reference to an answer that may not be there yet.
type Ref[Out any] struct {
	done chan struct{} // closed when the fields below are set
	out  Out
	err  error
	trip batch.Trip
	then func() // called after done was closed; may be nil
}

// Get waits for the answer, or for the end of ctx. It may be called many times
// and from many goroutines.
func (r *Ref[Out]) Get(ctx context.Context) (Out, error) {
	select {
	case <-r.done:
		return r.out, r.err
	default:
	}
	select {
	case <-r.done:
		return r.out, r.err
	case <-ctx.Done():
		var none Out
		return none, context.Cause(ctx)
	}
}

// Done is closed when the answer is there.
func (r *Ref[Out]) Done() <-chan struct{} { return r.done }

// Trip tells how the query fared: how long it waited and computed, in how large
// a batch, and why that batch left when it did. It is valid once Done is closed.
func (r *Ref[Out]) Trip() Trip {
	return Trip{Queued: r.trip.Queued, Computed: r.trip.Computed, BatchSize: r.trip.BatchSize, Reason: r.trip.Reason.String()}
}

// Trip is the story of an answered query.
type Trip struct {
	Queued    time.Duration // from its arrival until its batch left the queue
	Computed  time.Duration // from then until the batch was answered
	BatchSize int           // queries in the batch; 0 if the query never ran
	Reason    string        // why the batch left: free, full, timeout, deadline, key, cost or drain
}

// finish sets the answer. It is called once.
func (r *Ref[Out]) finish(out Out, err error, trip batch.Trip) {
	r.out, r.err, r.trip = out, err, trip
	close(r.done)
	if r.then != nil {
		r.then()
	}
}
