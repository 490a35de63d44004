package python

import (
	"fmt"
	"os/exec"
	sys "runtime"

	"golang.org/x/sys/unix"
)

// start starts a worker that can gain no rights which it does not have, such as by
// sudo. That is a property of the thread which starts it, so that this takes one of
// its own, which ends with its goroutine.
func start(cmd *exec.Cmd) error {
	started := make(chan error)
	go func() {
		sys.LockOSThread() // and never unlocked
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			started <- fmt.Errorf("giving up new rights: %w", err)
			return
		}
		started <- cmd.Start()
	}()
	return <-started
}
