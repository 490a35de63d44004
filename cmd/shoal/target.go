package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/shoalserve/shoal/internal/front/admin"
	"github.com/shoalserve/shoal/internal/secure"
)

// target is the server that a command talks to, and how it shows what it hears.
type target struct {
	address string
	token   string
	json    bool
}

// dial returns a client of the chosen server, or of the only one that runs.
func (t *target) dial() (*admin.Client, error) {
	address := t.address
	if address == "" {
		found, err := findServer()
		if err != nil {
			return nil, err
		}
		address = found
	}
	token := t.token
	if token == "" {
		token = os.Getenv("SHOAL_TOKEN")
	}
	secure, err := secure.Client(os.Getenv("SHOAL_CA"), os.Getenv("SHOAL_CERT"), os.Getenv("SHOAL_KEY"))
	if err != nil {
		return nil, err
	}
	return admin.Dial(address, token, secure)
}

// ask asks the server for something; an error of a model's shows where it was raised.
func (t *target) ask(do func(*admin.Client) error) error {
	client, err := t.dial()
	if err != nil {
		return err
	}
	defer client.Close()
	return withTraceback(do(client))
}

// runtimeDir is where servers of this user put their sockets.
func runtimeDir() string {
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" {
		return filepath.Join(dir, "shoal")
	}
	return filepath.Join(os.TempDir(), fmt.Sprintf("shoal-%d", os.Getuid()))
}

// defaultAdmin is the socket of a server on the default port; others are named
// by their port.
func defaultAdmin(httpAddress string) string {
	name := "admin.sock"
	if _, port, err := net.SplitHostPort(httpAddress); err == nil && port != "8000" {
		name = "admin-" + port + ".sock"
		if port == "0" {
			name = fmt.Sprintf("admin-pid%d.sock", os.Getpid())
		}
	}
	return "unix:" + filepath.Join(runtimeDir(), name)
}

// checkPrivate refuses a directory in which others could put a socket of theirs.
func checkPrivate(dir string) error {
	info, err := os.Lstat(dir)
	if err != nil {
		return fmt.Errorf("looking at the directory of sockets: %w", err)
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !info.IsDir() || info.Mode().Perm()&0o022 != 0 || (ok && int(owner.Uid) != os.Getuid()) {
		return fmt.Errorf("%s must be a directory of yours that only you can write to; give --admin (serve) or --server with another place", dir)
	}
	return nil
}

// findServer returns the one socket in the runtime directory that answers.
func findServer() (string, error) {
	sockets, err := filepath.Glob(filepath.Join(runtimeDir(), "admin*.sock"))
	if err != nil {
		return "", fmt.Errorf("looking for servers: %w", err)
	}
	if len(sockets) > 0 {
		if err := checkPrivate(runtimeDir()); err != nil {
			return "", err
		}
	}
	var alive []string
	for _, path := range sockets {
		if conn, err := net.DialTimeout("unix", path, time.Second); err == nil {
			conn.Close()
			alive = append(alive, "unix:"+path)
		}
	}
	switch len(alive) {
	case 0:
		return "", fmt.Errorf("no server of yours runs on this machine; start one with \"shoal serve\", or name one with --server")
	case 1:
		return alive[0], nil
	}
	return "", &usageError{fmt.Errorf("several servers run; name one with --server:\n  %s", strings.Join(alive, "\n  "))}
}

// writeJSON writes a value for programs.
func writeJSON(w io.Writer, v any) error {
	out := json.NewEncoder(w)
	out.SetIndent("", "  ")
	return out.Encode(v)
}
