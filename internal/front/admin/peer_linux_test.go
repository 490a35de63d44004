package admin

import (
	"net"
	"testing"
)

func TestASocketIsItsOwnersAndRoots(t *testing.T) {
	for _, c := range []struct {
		uid, server int
		owner       bool
	}{{1000, 1000, true}, {0, 1000, true}, {0, 0, true}, {1001, 1000, false}, {65534, 0, false}} {
		if isOwner(c.uid, c.server) != c.owner {
			t.Errorf("user %d at a server of %d: %v", c.uid, c.server, !c.owner)
		}
	}
	ours, theirs := net.Pipe() // says of nobody who he is
	defer ours.Close()
	defer theirs.Close()
	if name, owner := peer(ours); owner || name != "unknown" {
		t.Errorf("nobody is %s, owner %v", name, owner)
	}
}
