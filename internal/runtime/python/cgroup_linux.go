package python

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// cgroup bounds the memory of a worker and of the processes that it starts, together.
// The methods of a nil one do nothing.
type cgroup struct {
	dir   string
	of    *cgroups
	limit int64 // bytes
}

// join puts a process into the group. Those that it starts from then on are in it, too.
func (c *cgroup) join(pid int) error {
	return writeCgroup(c.dir, "cgroup.procs", strconv.Itoa(pid))
}

// ended tells how a process of the group ended, by what Wait returned: an *outOfMemory
// if the system killed it because the group had no more memory.
func (c *cgroup) ended(exit error) error {
	if c == nil || !gotKill(exit) || c.kills() == 0 {
		return exit
	}
	c.killRest()
	return &outOfMemory{limit: c.limit, exit: exit}
}

// kills is how many processes of the group the system has killed for want of memory.
func (c *cgroup) kills() (n int) {
	text, _ := os.ReadFile(filepath.Join(c.dir, c.of.files.events)) // none are known then
	for line := range strings.Lines(string(text)) {
		if count, ok := strings.CutPrefix(line, "oom_kill "); ok {
			n, _ = strconv.Atoi(strings.TrimSpace(count))
		}
	}
	return n
}

// killRest kills the processes that a worker left behind which ran out of memory: they
// hold what is missing. Version 2 does so by itself.
func (c *cgroup) killRest() {
	text, _ := os.ReadFile(filepath.Join(c.dir, "cgroup.procs")) // none are known then
	for pid := range strings.FieldsSeq(string(text)) {
		if n, err := strconv.Atoi(pid); err == nil && n > 0 {
			_ = syscall.Kill(n, syscall.SIGKILL) // the only error is that it is gone
		}
	}
}

// remove removes the group once its process was waited for. Others that it left
// behind may take a moment to end; a group that has some even after that is removed
// when the next is made, or by the next server.
func (c *cgroup) remove() {
	if c == nil {
		return
	}
	const tries = 8 // a quarter of a second in all
	for wait := time.Millisecond; wait < time.Millisecond<<tries; wait *= 2 {
		if err := unix.Rmdir(c.dir); err == nil || errors.Is(err, fs.ErrNotExist) {
			return
		}
		time.Sleep(wait)
	}
	c.of.keep(c.dir)
}
