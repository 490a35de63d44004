package python

import (
	"errors"
	"fmt"
	"os/exec"
	"syscall"

	"github.com/dustin/go-humanize"
	"golang.org/x/sys/unix"
)

// hints are what a signal that ended a worker usually means, and what to look at.
var hints = map[syscall.Signal]string{
	syscall.SIGKILL: "the system kills so when memory runs out: see `dmesg`, and memory_limit",
	syscall.SIGSEGV: "native code crashed; PYTHONFAULTHANDLER=1 in the backend's env shows where",
	syscall.SIGBUS:  "native code crashed, or shared memory ran out",
	syscall.SIGILL:  "native code is for another processor",
	syscall.SIGFPE:  "native code crashed",
	syscall.SIGABRT: "native code gave up; its last lines say why",
	syscall.SIGXCPU: "it used up its cpu_time_limit",
	syscall.SIGTERM: "somebody, or the model itself, asked it to end",
}

// outOfMemory is the end of a worker whose cgroup had no more memory.
type outOfMemory struct {
	limit int64 // bytes
	exit  error // what Wait returned
}

// Error implements error.
func (o *outOfMemory) Error() string {
	return fmt.Sprintf("out of memory: it and its processes needed more than memory_limit (%s)", humanize.IBytes(uint64(o.limit))) // #nosec G115 -- a limit is positive
}

// Unwrap returns what Wait returned.
func (o *outOfMemory) Unwrap() error { return o.exit }

// gotKill reports whether a process was ended by SIGKILL, by what Wait returned.
func gotKill(exit error) bool {
	failed, ok := errors.AsType[*exec.ExitError](exit)
	if !ok {
		return false
	}
	status, ok := failed.Sys().(syscall.WaitStatus)
	return ok && status.Signaled() && status.Signal() == syscall.SIGKILL
}

// ending says in words how a process ended, by what Wait returned.
func ending(exit error) string {
	if starved, ok := errors.AsType[*outOfMemory](exit); ok {
		return starved.Error()
	}
	failed, ok := errors.AsType[*exec.ExitError](exit)
	if !ok {
		if exit != nil {
			return exit.Error()
		}
		return "it exited with status 0"
	}
	status, ok := failed.Sys().(syscall.WaitStatus)
	if !ok || !status.Signaled() {
		return "it ended with " + failed.Error()
	}
	signal := status.Signal()
	how := fmt.Sprintf("it was ended by signal %d (%s)", signal, unix.SignalName(signal))
	if hint := hints[signal]; hint != "" {
		how += ": " + hint
	}
	return how
}
