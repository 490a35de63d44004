package python

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
)

// User is whom workers run as, instead of the server's own user.
type User struct {
	name, home string
	uid, gid   uint32
}

// LookUser finds a user by name or number. To run workers as another one takes a
// server that is root's.
func LookUser(name string) (*User, error) {
	found, err := user.Lookup(name)
	if err != nil {
		if found, err = user.LookupId(name); err != nil {
			return nil, fmt.Errorf("python.user: there is no user %q", name)
		}
	}
	uid, err1 := strconv.ParseUint(found.Uid, 10, 32)
	gid, err2 := strconv.ParseUint(found.Gid, 10, 32)
	if err := errors.Join(err1, err2); err != nil {
		return nil, fmt.Errorf("python.user: %w", err)
	}
	if os.Geteuid() != 0 && os.Geteuid() != int(uid) {
		return nil, fmt.Errorf("python.user: only a server that runs as root can run workers as %q; this one runs as user %d", name, os.Geteuid())
	}
	return &User{name: found.Username, home: found.HomeDir, uid: uint32(uid), gid: uint32(gid)}, nil
}

// environment is what a program of the user's finds.
func (u *User) environment() []string {
	if u == nil {
		return nil
	}
	return []string{"HOME=" + u.home, "USER=" + u.name, "LOGNAME=" + u.name}
}

// credential is the user as a process has him, without any other group's rights.
func (u *User) credential() *syscall.Credential {
	if u == nil || os.Geteuid() != 0 {
		return nil
	}
	return &syscall.Credential{Uid: u.uid, Gid: u.gid, Groups: []uint32{}}
}

// Show lets the user, and nobody else, read what lies in a directory of the
// server's own, and go through it.
func (u *User) Show(dir string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	return filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err == nil {
			err = os.Chown(path, -1, int(u.gid))
		}
		mode := fs.FileMode(0o640)
		if err == nil && entry.IsDir() {
			mode = 0o750 | fs.ModeSetgid // what comes later is the group's, too
		}
		if err == nil {
			err = os.Chmod(path, mode)
		}
		if err != nil {
			return fmt.Errorf("showing %s to user %q: %w", path, u.name, err)
		}
		return nil
	})
}
