//go:build !linux

package python

import (
	"errors"

	"github.com/shoalserve/shoal/internal/serving"
)

// limit refuses limits: here they cannot be set from outside the process.
func limit(_ int, c serving.Config) error {
	if c.MemoryLimit > 0 || c.CPUTimeLimit > 0 || c.OpenFilesLimit > 0 {
		return errors.New("memory_limit, cpu_time_limit and open_files_limit need Linux")
	}
	return nil
}
