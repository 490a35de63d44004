package rest

import (
	"net"
	"sync"
)

// handover is a listener whose connections come from within the process, some
// bytes of each read already. It never keeps anyone waiting who hands one over.
type handover struct {
	addr net.Addr

	mu     sync.Mutex
	come   sync.Cond // a connection or the end
	conns  []net.Conn
	closed bool
}

func newHandover(addr net.Addr) *handover {
	h := &handover{addr: addr}
	h.come.L = &h.mu
	return h
}

// put hands a connection over. It closes it if nobody accepts any more.
func (h *handover) put(c net.Conn) {
	h.mu.Lock()
	closed := h.closed
	if !closed {
		h.conns = append(h.conns, c)
		h.come.Signal()
	}
	h.mu.Unlock()
	if closed {
		_ = c.Close()
	}
}

// Accept implements net.Listener.
func (h *handover) Accept() (net.Conn, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for len(h.conns) == 0 && !h.closed {
		h.come.Wait()
	}
	if len(h.conns) == 0 {
		return nil, net.ErrClosed
	}
	c := h.conns[0]
	h.conns[0] = nil
	h.conns = h.conns[1:]
	return c, nil
}

// Close implements net.Listener. What was handed over before is still accepted.
func (h *handover) Close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	h.come.Broadcast()
	return nil
}

// Addr implements net.Listener.
func (h *handover) Addr() net.Addr { return h.addr }

// replayed is a connection that was read from before: those bytes come first.
// It offers net/http nothing that would read past them.
type replayed struct {
	net.Conn
	before []byte
}

// Read implements net.Conn.
func (r *replayed) Read(p []byte) (int, error) {
	if len(r.before) == 0 {
		return r.Conn.Read(p)
	}
	n := copy(p, r.before)
	if r.before = r.before[n:]; len(r.before) == 0 {
		r.before = nil
	}
	return n, nil
}

// CloseWrite ends the sending half, so that the last answer arrives whole.
func (r *replayed) CloseWrite() error {
	if half, ok := r.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}
