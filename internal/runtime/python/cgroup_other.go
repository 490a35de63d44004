//go:build !linux

package python

import "log/slog"

// cgroups are Linux's; here limits are refused before one would be made.
type cgroups struct{}

type cgroup struct{}

func newCgroups(*slog.Logger) *cgroups { return nil }

func (*cgroups) new(int64) (*cgroup, error) { return nil, nil }

func (*cgroup) join(int) error { return nil }

func (*cgroup) ended(exit error) error { return exit }

func (*cgroup) remove() {}
