//go:build !linux

package python

import "os/exec"

// start starts a worker.
func start(cmd *exec.Cmd) error { return cmd.Start() }
