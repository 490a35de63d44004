//go:build linux

package python

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// sharedMemory is memory that another process can map through a descriptor. Its
// size is sealed: whatever the other does, no access within it can fault.
type sharedMemory struct {
	file  *os.File
	bytes []byte
}

func newSharedMemory(size int) (sharedMemory, error) {
	if strconv.IntSize < 64 {
		return sharedMemory{}, nil // addresses are scarce
	}
	fd, err := unix.MemfdCreate("shoal", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return sharedMemory{}, fmt.Errorf("making shared memory: %w", err)
	}
	file := os.NewFile(uintptr(fd), "shared memory")
	m, err := mapShared(fd, size)
	if err != nil {
		return sharedMemory{}, errors.Join(fmt.Errorf("making shared memory of %d bytes: %w", size, err), file.Close())
	}
	return sharedMemory{file, m}, nil
}

func mapShared(fd, size int) ([]byte, error) {
	if err := unix.Ftruncate(fd, int64(size)); err != nil {
		return nil, err
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL); err != nil {
		return nil, err
	}
	return unix.Mmap(fd, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
}

// discard gives pages back to the system; they read as zeroes from then on.
func (m sharedMemory) discard(offset, length int) error {
	return unix.Fallocate(int(m.file.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, int64(offset), int64(length))
}

// close may be called again.
func (m *sharedMemory) close() error {
	if m.bytes == nil {
		return nil
	}
	bytes := m.bytes
	m.bytes = nil
	return errors.Join(unix.Munmap(bytes), m.file.Close())
}
