package server

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// statePrefix begins the names of state directories, in the temporary one.
const statePrefix = "shoal-state-"

// settled is the age from which a state directory that nobody has locked is a
// dead server's, and not that of one which is about to lock it.
const settled = time.Minute

// state is the directory of what a server keeps while it runs. The server holds
// a lock on it, so that others see that it lives.
type state struct {
	path string
	lock *os.File
}

// openState makes a state directory, and removes those that servers left behind
// which were killed.
func openState() (*state, error) {
	sweep(os.TempDir(), time.Now().Add(-settled))
	path, err := os.MkdirTemp("", statePrefix) // with mode 0700
	if err != nil {
		return nil, fmt.Errorf("making the state directory: %w", err)
	}
	lock, err := lockDir(path)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("locking the state directory: %w", err), os.RemoveAll(path))
	}
	return &state{path, lock}, nil
}

// close removes the directory.
func (s *state) close() error {
	return errors.Join(os.RemoveAll(s.path), s.lock.Close()) // which unlocks
}

// sweep removes the state directories in dir that were made before a time and
// whose servers are dead. Those that cannot be removed, such as another user's,
// are left for others.
func sweep(dir string, before time.Time) {
	paths, err := filepath.Glob(filepath.Join(dir, statePrefix+"*"))
	if err != nil {
		return // a pattern that Glob does not take, of an odd name of dir: nothing to sweep
	}
	for _, path := range paths {
		info, err := os.Lstat(path)
		if err != nil || !info.IsDir() || !ours(info) || info.ModTime().After(before) {
			continue
		}
		if lock, err := lockDir(path); err == nil {
			_ = os.RemoveAll(path) // it only takes up room; the next start tries again
			_ = lock.Close()
		}
	}
}

func ours(info os.FileInfo) bool {
	owner, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(owner.Uid) == os.Getuid()
}

// lockDir locks a directory, or says that somebody else has. The lock ends with
// the file, at the latest with the process; its children do not inherit it.
func lockDir(path string) (*os.File, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}
