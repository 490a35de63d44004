package python

import (
	"time"

	"golang.org/x/sys/unix"
)

// cpuClock is the kind of a clock that measures a process's processor time, as
// clock_getcpuclockid(3) makes it of a process's number.
const cpuClock = 2

// CPUTime implements serving.Clocked.
func (w *worker) CPUTime() time.Duration {
	var used unix.Timespec
	if err := unix.ClockGettime(int32(^w.PID()<<3|cpuClock), &used); err != nil { // #nosec G115 -- numbers of processes have 22 bits
		return 0 // it is gone
	}
	return time.Duration(used.Nano())
}
