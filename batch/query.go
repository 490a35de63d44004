package batch

import (
	"context"
	"time"
)

// Origin says which way a query came in. Origins never share a batch, because
// a model is shown different things for each.
type Origin uint8

const (
	// API is a query from a handle, in Go or in Python.
	API Origin = iota
	// Web is a query from a protocol front: HTTP or gRPC.
	Web

	origins // number of origins
)

// String returns "api" or "web".
func (o Origin) String() string {
	if o == Web {
		return "web"
	}
	return "api"
}

// Reason says why a batch left the queue when it did, with the size it had.
type Reason uint8

const (
	// Free: a replica was free and took all that waited.
	Free Reason = iota
	// Full: the batch had reached the maximum.
	Full
	// Timeout: batch_wait_timeout ended.
	Timeout
	// Deadline: the hold ended early because a query's deadline was near.
	Deadline
	// Key: a replica was free and took all of one group; queries with another
	// key or origin stayed behind.
	Key
	// Cost: the next query would not have fitted below the maximum.
	Cost
	// Drain: the batcher is closing and holds nothing back any more.
	Drain
	// Hold: the departure policy had held the batch back, and those it expected
	// had come, or were no longer worth waiting for.
	Hold
	// SLO: a larger batch would probably have missed Limits.LatencySLO.
	SLO
	// Retry: it is part of a batch that failed as a whole.
	Retry

	reasons // number of reasons
)

var reasonNames = [reasons]string{"free", "full", "timeout", "deadline", "key", "cost", "drain", "hold", "slo", "retry"}

// String returns the reason in lower case, as metrics and Server-Timing show it.
func (r Reason) String() string { return reasonNames[r] }

// The priorities that a query may have; see [Query].
const (
	MinPriority = -3
	MaxPriority = 3
)

// Query is one request to a model. The caller fills the fields up to Deadline and
// reads the answer's once Done was called. A Query must not be copied, nor used
// again before Done was called or [Batcher.Withdraw] returned true.
type Query[In, Out any] struct {
	// Context ends the query while it waits; nil means it waits as long as it takes.
	Context context.Context
	// In is what the model gets.
	In In
	// Origin is the way the query came in.
	Origin Origin
	// Done is called exactly once for each admitted query, from the goroutine
	// that finished its batch. It must not block.
	Done func(*Query[In, Out])
	// Tag is what Done wants to find in the query; the batcher leaves it alone.
	Tag any
	// Caller names who asks, for fair shares between callers. All queries without
	// a name are of one caller.
	Caller string
	// Priority is how urgent the query is, from MinPriority to MaxPriority; what
	// lies outside counts as the nearer of them.
	Priority int
	// Deadline is when the answer must be there. Zero: when the Context says, or
	// whenever it comes.
	Deadline time.Time
	// Bytes is what the query holds, against Limits.MaxQueuedBytes, where there is no
	// Options.Size.
	Bytes int64

	// Out is the model's answer, when Err is nil.
	Out Out
	// Err says why there is no answer.
	Err error
	// Trip tells how the query fared. It is zero for a query that never ran.
	Trip Trip

	cost    int
	bytes   int64
	arrived time.Time
	leaving bool            // it is to make room for another
	due     time.Time       // when the answer must be there; zero for whenever it comes
	seq     uint64          // place in the order of arrival
	key     Group           // what may share a batch with it
	split   *split[In, Out] // set on a query that was cut into parts

	batch    *Batch[In, Out] // while it is with a replica
	part     *part[In, Out]  // while it waits to be computed again
	attempts int             // calls that failed
	deaths   int             // replicas that ended with it
	gone     bool            // nobody waits for it, though it is with a replica
	once     bool            // it is computed once, whatever comes of it; see SubmitIdle

	// Set while the query waits: its group, and its neighbours in the order of
	// arrival, among all queries and among those of its lane.
	group              *group[In, Out]
	lane               *lane[In, Out] // in its group
	prev, next         *Query[In, Out]
	prevMate, nextMate *Query[In, Out]
}

// deadline is when the answer must be there; zero for whenever it comes.
func (q *Query[In, Out]) deadline() time.Time {
	if !q.Deadline.IsZero() || q.Context == nil {
		return q.Deadline
	}
	deadline, _ := q.Context.Deadline()
	return deadline
}

// dead reports whether nobody waits for the query any more.
func (q *Query[In, Out]) dead() bool { return q.Context != nil && q.Context.Err() != nil }

// over reports whether its deadline has passed.
func (q *Query[In, Out]) over(now time.Time) bool { return !q.due.IsZero() && !now.Before(q.due) }

// admitted forgets what became of the query before.
func (q *Query[In, Out]) admitted() {
	q.Trip, q.Err, q.split = Trip{}, nil, nil
	q.attempts, q.deaths, q.gone, q.once = 0, 0, false, false
}

// Trip is the story of an answered query.
type Trip struct {
	// Queued is the time from arrival until the replica could begin the batch.
	Queued time.Duration
	// Computed is the time from then until the batch was answered.
	Computed time.Duration
	// BatchID numbers the batches of one Batcher, from 1.
	BatchID uint64
	// BatchSize is the number of queries in the batch.
	BatchSize int
	// Reason is why the batch left when it did.
	Reason Reason
	// Attempts is how often the query was computed: more than once if a batch it
	// was in failed as a whole. Of these the times above are the last one's; the others are
	// part of Queued.
	Attempts int
}
