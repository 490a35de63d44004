package batch

import (
	"errors"
	"fmt"
)

var (
	// ErrQueueFull refuses a query because the queue is at one of its bounds.
	ErrQueueFull = errors.New("queue is full")
	// ErrDraining refuses a query because the batcher is closing.
	ErrDraining = errors.New("draining: no new queries are accepted")
)

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
// got queries. Nothing can tell which answer belongs to whom, so all fail.
type CountError struct {
	Name          string // the backend
	Expected, Got int
}

func (e *CountError) Error() string {
	return fmt.Sprintf("backend %q returned %d answers for a batch of %d", e.Name, e.Got, e.Expected)
}

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
