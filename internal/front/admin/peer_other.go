//go:build !linux

package admin

import "net"

// peerName names the user at the other end of a Unix socket, where the system says it.
func peerName(net.Conn) string { return "unknown" }
