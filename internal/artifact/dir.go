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
	"sync"
	"time"
)

const (
	prefix     = "sha256:"
	tempPrefix = "upload-"
	filePrefix = "sha256-"
	// abandoned is the age from which an unfinished upload is somebody's crash
	// and not somebody's work.
	abandoned = 24 * time.Hour
	// unused is how long an artifact stays that nobody holds: its deploy may be
	// about to come.
	unused = time.Hour
)

// Dir is a [Store] in a directory that only its owner can read: a pickle runs
// code when it is loaded, so nobody else may put one there.
type Dir struct {
	path    string
	maxSize int64
	mode    fs.FileMode // of files: whoever may read the directory may read them

	mu      sync.Mutex     // held while artifacts come and go
	holders map[string]int // of files
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
	return &Dir{path: path, maxSize: maxSize, mode: 0o600, holders: make(map[string]int)}, nil
}

// ShareWithGroup lets the group of the directory read what will be put into it.
func (d *Dir) ShareWithGroup() { d.mode = 0o640 }

// Put implements [Store]. It does not wait for the disk: after a power failure
// the client uploads again, which also mends a damaged artifact. It first makes
// room of what nobody needs any more.
func (d *Dir) Put(ctx context.Context, r io.Reader) (digest string, size int64, err error) {
	d.sweep()
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
	if err = errors.Join(err, temp.Chmod(d.mode), temp.Close()); err != nil {
		return "", 0, fmt.Errorf("storing an artifact: %w", err)
	}
	if size > d.maxSize {
		return "", 0, fmt.Errorf("%w: at most %d bytes are allowed", ErrTooLarge, d.maxSize)
	}
	digest = prefix + hex.EncodeToString(hash.Sum(nil))
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := os.Rename(temp.Name(), d.file(digest)); err != nil {
		return "", 0, fmt.Errorf("storing an artifact: %w", err)
	}
	return digest, size, nil
}

// Hold implements [Store].
func (d *Dir) Hold(_ context.Context, digest string) (path string, release func(), err error) {
	if err := check(digest); err != nil {
		return "", nil, err
	}
	path = d.file(digest)
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return "", nil, fmt.Errorf("%w: %s", ErrNotFound, digest)
	} else if err != nil {
		return "", nil, fmt.Errorf("looking up an artifact: %w", err)
	}
	d.holders[path]++
	return path, func() { d.release(path) }, nil
}

func (d *Dir) release(path string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.holders[path]--; d.holders[path] == 0 {
		delete(d.holders, path)
		now := time.Now()
		_ = os.Chtimes(path, now, now) // else it counts from when it was put, and goes sooner
	}
}

// sweep removes the artifacts that nobody has held for a while.
func (d *Dir) sweep() {
	d.mu.Lock()
	defer d.mu.Unlock()
	entries, err := os.ReadDir(d.path)
	if err != nil {
		return // whoever puts or holds something there is told
	}
	for _, entry := range entries {
		path := filepath.Join(d.path, entry.Name())
		info, err := entry.Info()
		if err != nil || !strings.HasPrefix(entry.Name(), filePrefix) || d.holders[path] > 0 || time.Since(info.ModTime()) < unused {
			continue
		}
		_ = os.Remove(path) // it only takes up room; the next Put tries again
	}
}

// file names the file of a digest; a colon is no good in file names everywhere.
func (d *Dir) file(digest string) string {
	return filepath.Join(d.path, filePrefix+strings.TrimPrefix(digest, prefix))
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
