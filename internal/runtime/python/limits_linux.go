package python

import (
	"fmt"
	"math"
	"time"

	"golang.org/x/sys/unix"

	"github.com/shoalserve/shoal/internal/serving"
)

// cpuGrace is how long a worker that got SIGXCPU, and handles it, may still compute
// before it is killed.
const cpuGrace = 5

// limit bounds what a worker may use. It is called before the worker has loaded the
// model, which it does once it gets INIT.
//
// Memory is bounded by RLIMIT_DATA: heap and private writable mappings, which is where
// objects and arrays are. RLIMIT_AS would count the shared memory as well, of which most is
// never touched, and every library that is mapped.
func limit(pid int, c serving.Config) error {
	seconds := uint64(math.Ceil(time.Duration(c.CPUTimeLimit).Seconds()))
	for _, l := range []struct {
		key        string
		resource   int
		soft, hard uint64
	}{
		{"memory_limit", unix.RLIMIT_DATA, uint64(c.MemoryLimit), uint64(c.MemoryLimit)},
		{"cpu_time_limit", unix.RLIMIT_CPU, seconds, seconds + cpuGrace},
		{"open_files_limit", unix.RLIMIT_NOFILE, uint64(c.OpenFilesLimit), uint64(c.OpenFilesLimit)},
	} {
		if l.soft == 0 {
			continue
		}
		if err := unix.Prlimit(pid, l.resource, &unix.Rlimit{Cur: l.soft, Max: l.hard}, nil); err != nil {
			return fmt.Errorf("setting %s: %w; it cannot be more than what the server itself may use", l.key, err)
		}
	}
	return nil
}
