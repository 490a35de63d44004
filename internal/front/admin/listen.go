package admin

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// maxSocketPath is what the kernels of Linux and macOS take, in bytes.
const maxSocketPath = 103

// Listen listens at an address as [Dial] takes it: "unix:/path" or
// "http://host:port", or "https://host:port" with secure, which are refused unless
// clients must bring a credential.
func Listen(address string, guarded bool, secure *tls.Config) (net.Listener, error) {
	if err := CheckAddress(address, guarded, secure != nil); err != nil {
		return nil, err
	}
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		return ListenUnix(path)
	}
	_, host, _ := strings.Cut(address, "://")
	l, err := net.Listen("tcp", strings.TrimSuffix(host, "/"))
	if err != nil {
		return nil, fmt.Errorf("listening for admin calls: %w", err)
	}
	if secure != nil {
		return secured{tls.NewListener(l, secure), l, secure}, nil
	}
	return l, nil
}

// CheckAddress refuses an address at which Listen would not even try to listen.
func CheckAddress(address string, guarded, secure bool) error {
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		return checkSocket(path)
	}
	scheme, _, ok := strings.Cut(address, "://")
	switch {
	case !ok || (scheme != "http" && scheme != "https"):
		return fmt.Errorf("admin address %q must be unix:/path, http://host:port or https://host:port", address)
	case (scheme == "https") != secure:
		return fmt.Errorf("admin address %q: https:// goes with a certificate in the section tls, and http:// with none", address)
	case !guarded:
		return errOpen
	}
	return nil
}

// checkSocket refuses a path that is too long for a socket.
func checkSocket(path string) error {
	if len(path) > maxSocketPath {
		return fmt.Errorf("socket path %s has %d bytes, at most %d are possible; choose a shorter one", path, len(path), maxSocketPath)
	}
	return nil
}

// secured is a listener of TLS connections that remembers what it is made of, since
// connections are counted beneath TLS.
type secured struct {
	net.Listener
	plain  net.Listener
	config *tls.Config
}

// counts reports whether a listener's connections are counted. Unix sockets are their
// owner's, who may have as many as he likes.
func counts(l net.Listener) bool { return l.Addr().Network() != "unix" }

// counted returns a listener with no more connections than the front takes.
func (f *Front) counted(l net.Listener) net.Listener {
	if s, ok := l.(secured); ok {
		return tls.NewListener(f.connections.Listen(s.plain), s.config)
	}
	if !counts(l) {
		return l
	}
	return f.connections.Listen(l)
}

// ListenUnix listens on a Unix socket that only its owner can open. It makes
// the socket's directory if it is missing, and takes the place of a socket that
// a dead server left behind, but not of one on which somebody answers.
func ListenUnix(path string) (net.Listener, error) {
	if err := checkSocket(path); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("listening on %s: %w", path, err)
	}
	unlock, err := lock(path + ".lock")
	if err != nil {
		return nil, fmt.Errorf("listening on %s: %w", path, err)
	}
	defer unlock()
	l, err := net.Listen("unix", path)
	if errors.Is(err, syscall.EADDRINUSE) {
		if err := removeStale(path); err != nil {
			return nil, err
		}
		l, err = net.Listen("unix", path)
	}
	if err != nil {
		return nil, fmt.Errorf("listening on %s: %w", path, err)
	}
	// Connecting takes the right to write, which the usual umask has withheld
	// from others until now, and so has the directory.
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("listening on %s: %w", path, err), l.Close())
	}
	return l, nil
}

// removeStale removes a socket on which nobody answers.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("listening on %s: %w", path, err)
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("listening on %s: there is a file that is not a socket", path)
	}
	conn, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		_ = conn.Close() // it was only a question
		return fmt.Errorf("listening on %s: another server answers there", path)
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("listening on %s: cannot tell whether another server is there: %w", path, err)
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("removing the stale socket: %w", err)
	}
	return nil
}

// lock makes servers that start at the same time look at the socket one after
// the other. Otherwise both could find it stale and one remove the other's.
func lock(path string) (unlock func(), err error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX); err != nil {
		return nil, errors.Join(fmt.Errorf("locking %s: %w", path, err), file.Close())
	}
	return func() { _ = file.Close() }, nil // which unlocks
}
