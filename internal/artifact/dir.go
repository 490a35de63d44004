package artifact

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"
	"time"
)

const (
	prefix     = "sha256:"
	tempPrefix = "upload-"
	// abandoned is the age from which an unfinished upload is somebody's crash
	// and not somebody's work.
	abandoned = 24 * time.Hour
)

// Dir is a [Store] in a directory that only its owner can read: a pickle runs
// code when it is loaded, so nobody else may put one there.
type Dir struct {
	path    string
	maxSize int64
}

// OpenDir makes the directory if it is missing and clears away uploads that a
// crash left unfinished. maxSize bounds one artifact; 0 means no bound.
func OpenDir(path string, maxSize int64) (*Dir, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("opening the artifact store: %w", err)
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, fmt.Errorf("opening the artifact store: %w", err)
	}
	for _, entry := range entries {
		info, err := entry.Info()
		if err == nil && strings.HasPrefix(entry.Name(), tempPrefix) && time.Since(info.ModTime()) > abandoned {
			_ = os.Remove(filepath.Join(path, entry.Name())) // it only takes up room; the next start tries again
		}
	}
	if maxSize <= 0 {
		maxSize = math.MaxInt64 - 1
	}
	return &Dir{path: path, maxSize: maxSize}, nil
}

// Put implements [Store]. It does not wait for the disk: after a power failure
// the client uploads again, which also mends a damaged artifact.
func (d *Dir) Put(ctx context.Context, r io.Reader) (digest string, size int64, err error) {
	temp, err := os.CreateTemp(d.path, tempPrefix+"*") // with mode 0600
	if err != nil {
		return "", 0, fmt.Errorf("storing an artifact: %w", err)
	}
	defer func() {
		if err != nil {
			_ = os.Remove(temp.Name()) // err says what went wrong first
		}
	}()
	hash := sha256.New()
	size, err = io.Copy(io.MultiWriter(temp, hash), io.LimitReader(&reader{ctx, r}, d.maxSize+1))
	if err = errors.Join(err, temp.Close()); err != nil {
		return "", 0, fmt.Errorf("storing an artifact: %w", err)
	}
	if size > d.maxSize {
		return "", 0, fmt.Errorf("%w: at most %d bytes are allowed", ErrTooLarge, d.maxSize)
	}
	digest = prefix + hex.EncodeToString(hash.Sum(nil))
	if err := os.Rename(temp.Name(), d.file(digest)); err != nil {
		return "", 0, fmt.Errorf("storing an artifact: %w", err)
	}
	return digest, size, nil
}

// Path implements [Store].
func (d *Dir) Path(_ context.Context, digest string) (string, error) {
	if err := check(digest); err != nil {
		return "", err
	}
	path := d.file(digest)
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("%w: %s", ErrNotFound, digest)
	} else if err != nil {
		return "", fmt.Errorf("looking up an artifact: %w", err)
	}
	return path, nil
}

// file names the file of a digest; a colon is no good in file names everywhere.
func (d *Dir) file(digest string) string {
	return filepath.Join(d.path, "sha256-"+strings.TrimPrefix(digest, prefix))
}

// check refuses what is no digest, so that no digest leads out of the directory.
func check(digest string) error {
	digits, ok := strings.CutPrefix(digest, prefix)
	if raw, err := hex.DecodeString(digits); !ok || err != nil || len(raw) != sha256.Size || strings.ToLower(digits) != digits {
		return fmt.Errorf("%w: %q is not a digest of the form sha256:<64 lower-case hexadecimal digits>", ErrNotFound, digest)
	}
	return nil
}

// reader ends with its context.
type reader struct {
	ctx context.Context
	r   io.Reader
}

func (r *reader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, context.Cause(r.ctx)
	}
	return r.r.Read(p)
}
