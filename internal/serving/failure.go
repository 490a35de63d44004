package serving

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/shoalserve/shoal/batch"
)

// ModelFailure wraps an error that a Go model returned for a query as a
// *ModelError. Errors that arose before the query ran, or that are not the
// model's, stay as they are.
func ModelFailure(backend string, err error, trip batch.Trip) error {
	if err == nil || trip.BatchID == 0 {
		return err
	}
	if _, ok := errors.AsType[*batch.CountError](err); ok || errors.Is(err, batch.ErrStopped) || errors.Is(err, batch.ErrAbandoned) {
		return err
	}
	if own, ok := errors.AsType[*ModelError](err); ok {
		return own
	}
	if own, ok := errors.AsType[*Error](err); ok {
		return own // the server's, about the replica
	}
	failure := &ModelError{Backend: backend, Type: fmt.Sprintf("%T", err), Message: err.Error(), Status: http.StatusInternalServerError, Err: err}
	if p, ok := errors.AsType[*batch.PanicError](err); ok && p.Where == "model" {
		failure.Type, failure.Traceback = "panic", string(p.Stack)
	}
	if s, ok := errors.AsType[interface {
		error
		HTTPStatus() int
	}](err); ok {
		failure.Status = s.HTTPStatus()
	}
	return failure
}
