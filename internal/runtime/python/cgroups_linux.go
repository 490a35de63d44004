package python

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// cgroups is where control groups for workers are made: a directory of the system's
// tree of groups, below which the server may make its own.
type cgroups struct {
	dir   string
	files *cgroupFiles

	mu   sync.Mutex
	left []string // directories that could not be removed yet
}

// cgroupFiles are the names and contents in which the versions of cgroups differ
// (Linux: admin-guide/cgroup-v2.rst, admin-guide/cgroup-v1/memory.rst).
type cgroupFiles struct {
	version int
	limit   string
	// beside are written where they exist, after the limit; "%d" becomes the limit.
	beside [][2]string
	events string // has a line "oom_kill N"
}

var (
	cgroupV1 = &cgroupFiles{
		version: 1, limit: "memory.limit_in_bytes", events: "memory.oom_control",
		beside: [][2]string{{"memory.memsw.limit_in_bytes", "%d"}}, // of memory and swap
	}
	cgroupV2 = &cgroupFiles{
		version: 2, limit: "memory.max", events: "memory.events",
		beside: [][2]string{{"memory.swap.max", "0"}, {"memory.oom.group", "1"}},
	}
)

// newCgroups finds where groups can be made and says so in the log. Nil: nowhere.
// It also removes what servers that were killed have left behind.
func newCgroups(log *slog.Logger) *cgroups {
	g, err := findCgroups()
	if err != nil {
		log.Info("memory_limit bounds the heap of each worker, by rlimits alone; no cgroups", "reason", err)
		return nil
	}
	g.sweep()
	log.Info("memory_limit bounds the heap of each worker, and by a cgroup all that it and its processes hold", "cgroup_version", g.files.version, "dir", g.dir)
	return g
}

// findCgroups reads where the server's own group is, and tries whether a group with a
// limit can be made there.
func findCgroups() (*cgroups, error) {
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, err
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	g, err := placeCgroups(string(own), string(mounts), delegated)
	if err != nil {
		return nil, err
	}
	try, err := g.new(minCgroup)
	if err != nil {
		return nil, err
	}
	try.remove()
	return g, nil
}

// minCgroup is any limit, to try whether one can be set.
const minCgroup = 32 << 20

// placeCgroups says where groups can be made, from the texts of /proc/self/cgroup and
// /proc/self/mountinfo. With version 1 that is the server's own group. With version 2
// a group that has processes cannot hand its memory controller on to its children, so it
// is the group's parent where that was delegated to the server; only the root group
// can itself.
func placeCgroups(own, mounts string, delegated func(dir string) bool) (*cgroups, error) {
	if group, ok := ownCgroup(own, "memory"); ok {
		dir, err := mountedAt(mounts, "cgroup", "memory", group)
		if err != nil {
			return nil, err
		}
		return &cgroups{dir: dir, files: cgroupV1}, nil
	}
	group, ok := ownCgroup(own, "")
	if !ok {
		return nil, errors.New("the system has no cgroups")
	}
	dir, err := mountedAt(mounts, "cgroup2", "", group)
	if err != nil {
		return nil, err
	}
	err = handOn(dir)
	if parent := filepath.Dir(dir); err != nil && group != "/" && delegated(parent) {
		dir, err = parent, handOn(parent)
	}
	if err != nil {
		return nil, fmt.Errorf("no cgroup with a memory controller is delegated to the server (systemd: Delegate=memory and DelegateSubgroup=server): %w", err)
	}
	return &cgroups{dir: dir, files: cgroupV2}, nil
}

// ownCgroup finds the group in the hierarchy of a controller; "" is that of version 2.
func ownCgroup(own, controller string) (group string, ok bool) {
	for line := range strings.Lines(own) {
		fields := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3) // number:controllers:group
		if len(fields) == 3 && slices.Contains(strings.Split(fields[1], ","), controller) {
			return fields[2], true
		}
	}
	return "", false
}

// mountedAt finds the directory of a group in a hierarchy.
func mountedAt(mounts, kind, controller, group string) (dir string, err error) {
	for line := range strings.Lines(mounts) {
		// number parent device root mountpoint options [more …] - kind source options
		before, after, _ := strings.Cut(line, " - ")
		at, fs := strings.Fields(before), strings.Fields(after)
		if len(at) < 5 || len(fs) < 3 || fs[0] != kind || controller != "" && !slices.Contains(strings.Split(fs[2], ","), controller) {
			continue
		}
		below, ok := strings.CutPrefix(group, strings.TrimSuffix(at[3], "/"))
		if !ok || below != "" && below[0] != '/' || slices.Contains(strings.Split(below, "/"), "..") {
			continue // the group is not in the part of the hierarchy that is mounted here
		}
		return path.Join(at[4], below), nil
	}
	return "", fmt.Errorf("the cgroup %s of the server is not mounted", group)
}

// handOn has the children of a group of version 2 get memory controllers.
func handOn(dir string) error {
	const file, memory = "cgroup.subtree_control", "memory"
	has := func(file string) bool {
		text, err := os.ReadFile(filepath.Join(dir, file))
		return err == nil && slices.Contains(strings.Fields(string(text)), memory)
	}
	if has(file) {
		return nil
	}
	if !has("cgroup.controllers") {
		return fmt.Errorf("%s has no memory controller", dir)
	}
	return writeCgroup(dir, file, "+"+memory)
}

// delegated reports whether systemd has left a group to the service that runs in it
// (systemd: docs/CGROUP_DELEGATION.md). Where it has not, the group is systemd's, and
// that root may write to it does not mean that it should.
func delegated(dir string) bool {
	mark := make([]byte, 1)
	for _, name := range []string{"user.delegate", "trusted.delegate"} {
		if n, err := unix.Getxattr(dir, name, mark); err == nil && n == 1 && mark[0] == '1' {
			return true
		}
	}
	return false
}

// cgroupPrefix starts the names of groups that a server makes: shoal-PID-NUMBER.
const cgroupPrefix = "shoal-"

var cgroupNumber atomic.Uint64

// makeDir makes a directory of a new name. A server that was killed and had this one's
// PID may have left some.
func (g *cgroups) makeDir() (string, error) {
	for {
		dir := filepath.Join(g.dir, fmt.Sprintf("%s%d-%d", cgroupPrefix, os.Getpid(), cgroupNumber.Add(1)))
		if err := os.Mkdir(dir, 0o750); !errors.Is(err, fs.ErrExist) {
			return dir, err
		}
	}
}

// new makes a group with a limit of so many bytes. Whoever made it removes it.
func (g *cgroups) new(limit int64) (*cgroup, error) {
	g.retry()
	dir, err := g.makeDir()
	if err != nil {
		return nil, fmt.Errorf("making a cgroup: %w", err)
	}
	c := &cgroup{dir: dir, of: g, limit: limit}
	if err := writeCgroup(c.dir, g.files.limit, strconv.FormatInt(limit, 10)); err != nil {
		c.remove()
		return nil, fmt.Errorf("limiting a cgroup: %w", err)
	}
	for _, b := range g.files.beside {
		// Not every system has swap to limit, or can kill a whole group.
		_ = writeCgroup(c.dir, b[0], strings.Replace(b[1], "%d", strconv.FormatInt(limit, 10), 1))
	}
	return c, nil
}

func writeCgroup(dir, file, text string) error {
	return os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600)
}

// keep notes a directory that still has processes, to be removed later.
func (g *cgroups) keep(dir string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.left = append(g.left, dir)
}

// retry removes the directories that could not be removed before.
func (g *cgroups) retry() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.left = slices.DeleteFunc(g.left, func(dir string) bool {
		err := unix.Rmdir(dir)
		return err == nil || errors.Is(err, fs.ErrNotExist)
	})
}

// sweep removes the groups of servers that are gone, unless they have processes still.
func (g *cgroups) sweep() {
	dirs, _ := filepath.Glob(filepath.Join(g.dir, cgroupPrefix+"*-*")) // the pattern is well-formed
	for _, dir := range dirs {
		number, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(dir), cgroupPrefix), "-")
		pid, err := strconv.Atoi(number)
		if err == nil && pid > 0 && errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			_ = unix.Rmdir(dir) // the next server tries again
		}
	}
}
