package python

import (
	"errors"
	"fmt"
	"os/exec"
	"syscall"

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

// ending says in words how a process ended, by what Wait returned.
func ending(exit error) string {
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
