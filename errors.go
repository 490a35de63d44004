package shoal

import (
	"github.com/shoalserve/shoal/batch"
	"github.com/shoalserve/shoal/internal/serving"
)

// Errors that callers decide on, with errors.Is.
var (
	// ErrQueueFull refuses a query because as many wait as may, or as can be answered in
	// time. The error is an *[OverloadError].
	ErrQueueFull = batch.ErrQueueFull
	// ErrDraining refuses a query or a change because the app is closing.
	ErrDraining = batch.ErrDraining
	// ErrEndpointNotFound and ErrBackendNotFound name what does not exist.
	ErrEndpointNotFound error = &serving.Error{Code: serving.EndpointNotFound}
	ErrBackendNotFound  error = &serving.Error{Code: serving.BackendNotFound}
	// ErrAlreadyExists refuses a backend, an endpoint or a route a second time.
	ErrAlreadyExists error = &serving.Error{Code: serving.AlreadyExists}
	// ErrInUse refuses to delete a backend that an endpoint uses.
	ErrInUse error = &serving.Error{Code: serving.InUse}
	// ErrBatchTimeout is what the queries of a batch get that computed for longer
	// than Config.BatchTimeout.
	ErrBatchTimeout error = &serving.Error{Code: serving.BatchTimeout}
	// ErrInvalidArgument refuses a config, a route or weights that make no sense.
	ErrInvalidArgument error = &serving.Error{Code: serving.InvalidArgument}
)

// Errors that carry more, for errors.As.
type (
	// ModelError is an error that a model returned or a panic of its function;
	// it unwraps to the model's own error.
	ModelError = serving.ModelError
	// LoadError reports a model that could not start.
	LoadError = serving.LoadError
	// CountError reports a batch function that returned another number of
	// answers than it got queries.
	CountError = batch.CountError
	// TooLargeError refuses a query that costs more than MaxBatchSize.
	TooLargeError = batch.TooLargeError
	// OverloadError refuses a query for which there is no room, or not enough time, and
	// tells when to try again. It is [ErrQueueFull].
	OverloadError = batch.OverloadError
	// ItemErrors, returned by a batch function beside its answers, fails single
	// queries of the batch.
	ItemErrors = batch.ItemErrors
)
