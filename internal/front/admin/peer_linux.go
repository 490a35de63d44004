package admin

import (
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// peer names the user at the other end of a Unix socket, for the audit log, and
// reports whether he is the server's own or root.
func peer(c net.Conn) (name string, owner bool) {
	name = "unknown"
	socket, ok := c.(*net.UnixConn)
	if !ok {
		return name, false
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return name, false
	}
	_ = raw.Control(func(fd uintptr) { // a connection that is closed sends no requests
		if peer, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			name, owner = fmt.Sprintf("uid=%d,pid=%d", peer.Uid, peer.Pid), isOwner(int(peer.Uid), os.Geteuid())
		}
	})
	return name, owner
}

// isOwner reports whether a user is trusted by a server of another one.
func isOwner(uid, server int) bool { return uid == server || uid == 0 }
