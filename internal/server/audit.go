package server

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/time/rate"
)

// auditFile is the file of the audit log. That a line could not be written is told in
// the server's log: whoever writes through slog is not told.
type auditFile struct {
	path string
	log  *slog.Logger
	said rate.Sometimes // bounds what is told

	mu   sync.Mutex
	file *os.File // nil once closed
}

func newAuditFile(path string, log *slog.Logger) *auditFile {
	return &auditFile{path: path, log: log, said: rate.Sometimes{Interval: 10 * time.Second}}
}

// reopen opens the file that has the path now. If it cannot, the old one goes on.
func (a *auditFile) reopen() error {
	file, err := os.OpenFile(a.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("opening the audit log: %w", err)
	}
	a.mu.Lock()
	old := a.file
	a.file = file
	a.mu.Unlock()
	if old != nil {
		return old.Close()
	}
	return nil
}

// checkAuditFile tells why the audit log could not be opened, and makes no file.
func checkAuditFile(path string) error {
	file, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0) // #nosec G304 -- its owner names it
	if err == nil {
		return file.Close()
	}
	if errors.Is(err, fs.ErrNotExist) {
		const toWrite = 2
		if err = syscall.Access(filepath.Dir(path), toWrite); err == nil {
			return nil
		}
		err = &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return fmt.Errorf("opening the audit log: %w", err)
}

// Write implements io.Writer.
func (a *auditFile) Write(line []byte) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	n, err := a.write(line)
	if err != nil {
		a.said.Do(func() { a.log.Error("the audit log could not be written", "error", err) })
	}
	return n, err
}

func (a *auditFile) write(line []byte) (int, error) {
	if a.file == nil {
		return 0, os.ErrClosed
	}
	return a.file.Write(line)
}

// Close closes the file.
func (a *auditFile) Close() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	file := a.file
	a.file = nil
	if file == nil {
		return nil
	}
	return file.Close()
}
