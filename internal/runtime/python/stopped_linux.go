package python

import (
	"bytes"
	"fmt"
	"os"
)

// stopped reports whether a process does not run because of a signal such as
// SIGSTOP. One that a debugger has stopped does not count: somebody is looking at it.
func stopped(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false // it is gone
	}
	// The state follows the name, which is in parentheses and may hold some.
	_, rest, _ := bytes.Cut(stat[max(0, bytes.LastIndexByte(stat, ')')):], []byte(" "))
	return len(rest) > 0 && rest[0] == 'T'
}
