package rest

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// These system calls never block: their descriptors do not. So the scheduler need
// not hear of them; it would think of others to run meanwhile, which costs more than
// the call.

// rawRead is [unix.Read] on a descriptor that does not block.
func rawRead(fd int, p []byte) (int, syscall.Errno) {
	n, _, err := unix.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)))
	return int(n), err
}

// rawWrite is [unix.Write] on a descriptor that does not block.
func rawWrite(fd int, p []byte) (int, syscall.Errno) {
	n, _, err := unix.RawSyscall(unix.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)))
	return int(n), err
}

// rawEpollWait is [unix.EpollWait] without waiting.
func rawEpollWait(fd int, events []unix.EpollEvent) (int, syscall.Errno) {
	n, _, err := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(events))), uintptr(len(events)), 0, 0, 0)
	return int(n), err
}
