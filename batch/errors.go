package batch

import (
	"errors"
	"fmt"
	"time"
)

var (
	// ErrQueueFull refuses a query because the queue is at one of its bounds, or too
	// long for the query. The error is an *[OverloadError].
	ErrQueueFull = errors.New("queue is full")
	// ErrDraining refuses a query because the batcher is closing.
	ErrDraining = errors.New("draining: no new queries are accepted")
)

// Refusal says why a query was refused, or had to leave the queue.
type Refusal uint8

const (
	// Other: it was wrong, or the batcher is closing.
	Other Refusal = iota
	// QueueFull: Limits.MaxQueued.
	QueueFull
	// QueueBytes: Limits.MaxQueuedBytes.
	QueueBytes
	// QueueTime: Limits.QueueTimeTarget.
	QueueTime
	// TooLate: its deadline would have passed before its answer.
	TooLate
	// Evicted: it was in the queue, and made room for a query of a caller with less in
	// the queue, or of a higher priority.
	Evicted

	refusals               // number of refusals
	admitted Refusal = 255 // none
)

var refusalNames = [refusals]string{"other", "queue_full", "queue_bytes", "queue_time", "deadline", "evicted"}

// String returns the refusal as metrics show it.
func (r Refusal) String() string { return refusalNames[r] }

// Refusals lists every Refusal.
func Refusals() []Refusal {
	all := make([]Refusal, refusals)
	for i := range all {
		all[i] = Refusal(i)
	}
	return all
}

// OverloadError refuses a query for which there is no room, or no time. It is
// [ErrQueueFull] to errors.Is.
type OverloadError struct {
	Name   string // the backend
	Reason Refusal
	// RetryAfter is when there will probably be room; 0 if that is not known.
	RetryAfter time.Duration

	detail string
}

func (e *OverloadError) Error() string {
	if e.Reason == TooLate {
		return fmt.Sprintf("backend %q: the deadline cannot be met: %s", e.Name, e.detail)
	}
	return fmt.Sprintf("backend %q: %v: %s", e.Name, ErrQueueFull, e.detail)
}

// Is makes the error an ErrQueueFull.
func (e *OverloadError) Is(target error) bool { return target == ErrQueueFull }

// TooLargeError refuses a query that alone costs more than a batch may hold
// and that cannot be split.
type TooLargeError struct {
	Name      string // the backend
	Cost, Max int
}

func (e *TooLargeError) Error() string {
	return fmt.Sprintf("query costs %d, but max_batch_size of backend %q is %d and it cannot be split", e.Cost, e.Name, e.Max)
}

// CountError reports a model that returned another number of answers than it
// got queries. Nothing can tell which answer belongs to whom, so none is used.
type CountError struct {
	Name          string // the backend
	Expected, Got int
}

func (e *CountError) Error() string {
	return fmt.Sprintf("backend %q returned %d answers for a batch of %d", e.Name, e.Got, e.Expected)
}

// LostError refuses a query that was alone when the replica that computed it
// ended, after others had ended with it: it is not computed again.
type LostError struct {
	Name     string // the backend
	Replicas int    // that ended with it
	Err      error  // how the last one did
}

func (e *LostError) Error() string {
	return fmt.Sprintf("backend %q: the query is refused, since %d replicas ended while they computed it, the last time alone: %v", e.Name, e.Replicas, e.Err)
}

// Unwrap returns how the last replica ended.
func (e *LostError) Unwrap() error { return e.Err }

// PanicError is what a query gets when a user's function or callback panicked.
type PanicError struct {
	Where string // "model", "key", "cost", "size", "split" or "join"
	Value any
	Stack []byte
}

func (e *PanicError) Error() string { return fmt.Sprintf("%s function panicked: %v", e.Where, e.Value) }

// Unwrap returns the panic's value if it was an error.
func (e *PanicError) Unwrap() error {
	err, _ := e.Value.(error)
	return err
}

// ItemErrors lets a model fail single queries of a batch: a model function
// that returns it beside its answers gives error i to query i, and answer i
// to every query whose error is nil. Its length must be that of the batch; the
// answers may be missing when every query failed.
type ItemErrors []error

// Error says how many queries failed, and the first error.
func (e ItemErrors) Error() string {
	failed, first := 0, error(nil)
	for _, err := range e {
		if err != nil {
			failed++
			if first == nil {
				first = err
			}
		}
	}
	return fmt.Sprintf("%d of %d queries failed, the first with: %v", failed, len(e), first)
}

// Unwrap returns the errors of the queries that failed.
func (e ItemErrors) Unwrap() []error {
	var failed []error
	for _, err := range e {
		if err != nil {
			failed = append(failed, err)
		}
	}
	return failed
}
