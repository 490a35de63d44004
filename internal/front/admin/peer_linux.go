package admin

import (
	"fmt"
	"net"

	"golang.org/x/sys/unix"
)

// peerName names the user at the other end of a Unix socket, for the audit log.
func peerName(c net.Conn) string {
	socket, ok := c.(*net.UnixConn)
	if !ok {
		return "unknown"
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return "unknown"
	}
	name := "unknown"
	_ = raw.Control(func(fd uintptr) { // a connection that is closed sends no requests
		if peer, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			name = fmt.Sprintf("uid=%d,pid=%d", peer.Uid, peer.Pid)
		}
	})
	return name
}
