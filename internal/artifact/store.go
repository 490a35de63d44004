package artifact

import (
	"context"
	"errors"
	"io"
)

// Store keeps artifacts by the digest of their content, "sha256:" and 64
// hexadecimal digits. What nobody holds is kept for a while, in which whoever
// put it can use it, and may then be removed. Its methods may be called from any goroutine.
type Store interface {
	// Put reads an artifact to its end and keeps it whole, or not at all.
	Put(ctx context.Context, r io.Reader) (digest string, size int64, err error)
	// Hold returns a local file with the artifact's content, which must not be
	// changed and stays until release is called, once; or [ErrNotFound].
	Hold(ctx context.Context, digest string) (path string, release func(), err error)
}

var (
	// ErrNotFound reports a digest under which nothing is kept.
	ErrNotFound = errors.New("artifact does not exist")
	// ErrTooLarge reports an artifact beyond the store's limit.
	ErrTooLarge = errors.New("artifact is too large")
)
