package artifact

import (
	"context"
	"errors"
	"io"
)

// Store keeps artifacts by the digest of their content, "sha256:" and 64
// hexadecimal digits. Its methods may be called from any goroutine.
type Store interface {
	// Put reads an artifact to its end and keeps it whole, or not at all.
	Put(ctx context.Context, r io.Reader) (digest string, size int64, err error)
	// Path returns a local file with the artifact's content, which must not be
	// changed, or [ErrNotFound].
	Path(ctx context.Context, digest string) (string, error)
}

var (
	// ErrNotFound reports a digest under which nothing is kept.
	ErrNotFound = errors.New("artifact does not exist")
	// ErrTooLarge reports an artifact beyond the store's limit.
	ErrTooLarge = errors.New("artifact is too large")
)
