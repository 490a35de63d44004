package serving

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/shoalserve/shoal/batch"
)

// Code names a kind of error in every protocol; docs/protocol.md lists them.
type Code string

// The codes that the server itself gives.
const (
	EndpointNotFound Code = "EndpointNotFound"
	BackendNotFound  Code = "BackendNotFound"
	AlreadyExists    Code = "AlreadyExists"
	InvalidArgument  Code = "InvalidArgument"
	InUse            Code = "InUse"
	QueueFull        Code = "QueueFull"
	TooLarge         Code = "TooLarge"
	DeadlineExceeded Code = "DeadlineExceeded"
	Canceled         Code = "Canceled"
	Draining         Code = "Draining"
	Unavailable      Code = "Unavailable"
	WrongAnswerCount Code = "WrongAnswerCount"
	WorkerDied       Code = "WorkerDied"
	LoadFailed       Code = "LoadFailed"
	Unauthorized     Code = "Unauthorized"
	Forbidden        Code = "Forbidden"
	Internal         Code = "Internal"
	BatchTimeout     Code = "BatchTimeout"
)

var statuses = map[Code]int{
	EndpointNotFound: http.StatusNotFound,
	BackendNotFound:  http.StatusNotFound,
	AlreadyExists:    http.StatusConflict,
	InvalidArgument:  http.StatusBadRequest,
	InUse:            http.StatusConflict,
	QueueFull:        http.StatusServiceUnavailable,
	TooLarge:         http.StatusRequestEntityTooLarge,
	DeadlineExceeded: http.StatusGatewayTimeout,
	Canceled:         499, // the client has gone; nobody reads it
	Draining:         http.StatusServiceUnavailable,
	Unavailable:      http.StatusServiceUnavailable,
	WrongAnswerCount: http.StatusInternalServerError,
	WorkerDied:       http.StatusInternalServerError,
	LoadFailed:       http.StatusUnprocessableEntity,
	Unauthorized:     http.StatusUnauthorized,
	Forbidden:        http.StatusForbidden,
	Internal:         http.StatusInternalServerError,
	BatchTimeout:     http.StatusGatewayTimeout,
}

// Error is an error of the server's own, with the code that callers decide on.
type Error struct {
	Code    Code
	Message string
	// RetryAfter is when it is worth to ask again; 0 if that is not known.
	RetryAfter time.Duration
}

func (e *Error) Error() string { return e.Message }

// Is makes errors.Is(err, &Error{Code: c}) true for every error with that code.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code && t.Message == ""
}

// Errorf makes an Error.
func Errorf(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

// ModelError is an error that the model raised.
type ModelError struct {
	Backend string
	// Type is the class of the exception, or the type of the Go error.
	Type      string
	Message   string
	Traceback string
	// Status is the HTTP status that the model asks for; 500 unless it said so.
	Status int
	Header http.Header
	// Pickle is the exception itself, for Python callers.
	Pickle []byte
	// Err is the Go error, where the model is a Go function.
	Err error
}

func (e *ModelError) Error() string {
	return fmt.Sprintf("backend %q: %s: %s", e.Backend, e.Type, e.Message)
}

// Unwrap returns the model's own Go error, if it is one.
func (e *ModelError) Unwrap() error { return e.Err }

// LoadError reports a backend that could not be started: its import, its
// __init__ or its Init failed.
type LoadError struct {
	Backend   string
	Type      string
	Message   string
	Traceback string
	// Err is the Go error, where the model is a Go function.
	Err error
}

func (e *LoadError) Error() string {
	return fmt.Sprintf("backend %q could not be started: %s: %s", e.Backend, e.Type, e.Message)
}

// Unwrap returns the Go error, if there is one.
func (e *LoadError) Unwrap() error { return e.Err }

// Problem is an error as every protocol shows it.
type Problem struct {
	Code      Code   // of the table in docs/protocol.md, or a model's exception type
	Status    int    // HTTP status
	Message   string // for the caller
	Traceback string // the model's, if any
	Header    http.Header
	Pickle    []byte
	Model     bool // the model raised it
}

// Describe turns any error into what a caller is told.
func Describe(err error) Problem {
	if model, ok := errors.AsType[*ModelError](err); ok {
		return Problem{
			Code: Code(model.Type), Status: model.Status, Message: model.Message, Traceback: model.Traceback,
			Header: model.Header, Pickle: model.Pickle, Model: true,
		}
	}
	if load, ok := errors.AsType[*LoadError](err); ok {
		return Problem{Code: LoadFailed, Status: statuses[LoadFailed], Message: load.Error(), Traceback: load.Traceback}
	}
	code := codeOf(err)
	p := Problem{Code: code, Status: statuses[code], Message: err.Error()}
	if own, ok := errors.AsType[*Error](err); ok && own.RetryAfter > 0 {
		p.Header = http.Header{"Retry-After": {retryAfter(own.RetryAfter)}}
	}
	if overload, ok := errors.AsType[*batch.OverloadError](err); ok {
		p.Header = http.Header{"Retry-After": {retryAfter(overload.RetryAfter)}}
	}
	return p
}

// retryAfter writes a time as RFC 9110 wants it: in whole seconds, and not at once.
func retryAfter(d time.Duration) string {
	return strconv.FormatInt(max(1, int64((d+time.Second-1)/time.Second)), 10)
}

func codeOf(err error) Code {
	if own, ok := errors.AsType[*Error](err); ok {
		return own.Code
	}
	if _, ok := errors.AsType[*batch.TooLargeError](err); ok {
		return TooLarge
	}
	if _, ok := errors.AsType[*batch.CountError](err); ok {
		return WrongAnswerCount
	}
	switch {
	case errors.Is(err, batch.ErrQueueFull):
		return QueueFull
	case errors.Is(err, batch.ErrDraining):
		return Draining
	case errors.Is(err, context.DeadlineExceeded):
		return DeadlineExceeded
	case errors.Is(err, context.Canceled):
		return Canceled
	}
	return Internal
}
