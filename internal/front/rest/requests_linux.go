package rest

import (
	"net"
	"net/http"
	"os"

	"golang.org/x/sys/unix"

	"github.com/shoalserve/shoal/internal/front/door"
)

// This file reads requests: from bytes to a flight that is under way, or to net/http.

// read reads what there is.
func (l *loop) read(c *conn) {
	for c.phase != asking && c.phase != writing && c.phase != gone {
		room := l.buf
		if c.phase == filling {
			var err error
			if room, err = c.flight.room(); err != nil {
				l.overfull(c, err)
				continue
			}
		}
		n, err := rawRead(c.fd, room)
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EAGAIN:
			return
		case err != 0:
			l.lost(c)
			return
		case n == 0:
			l.hungUp(c)
			return
		}
		c.drained = n < len(room) // so says epoll(7)
		switch c.phase {
		case lingering:
		case filling:
			if c.flight.fill(n) {
				l.launch(c, !c.drained || c.left)
			}
		default:
			l.take(c, room[:n])
			if poisoned.Load() {
				poison(room[:n])
			}
		}
		if c.drained && !c.left {
			return
		}
	}
	if c.phase == asking && c.left {
		l.departed(c)
	}
}

// lost ends a connection that is broken.
func (l *loop) lost(c *conn) {
	if c.phase == filling {
		c.flight.route.Request(clientLeft, l.now.Sub(c.flight.began))
	}
	l.end(c)
}

// hungUp ends a connection whose client sends no more.
func (l *loop) hungUp(c *conn) {
	switch c.phase {
	case heading:
		l.handOver(c, c.in)
	case filling:
		l.answer(c, goodbye)
	default:
		l.end(c)
	}
}

// take takes bytes of a request in.
func (l *loop) take(c *conn, data []byte) {
	if len(c.in) > 0 {
		c.in = append(c.in, data...)
		data = c.in
	}
	if c.phase == resting {
		if data = c.skipBreaks(data); len(data) == 0 {
			return
		}
		if c.used && isBreak(data[0]) { // HTTP/2 must not hide behind it
			l.refuse(c)
			return
		}
	}
	size, plain := headEnd(data, c.scanned)
	switch {
	case !plain, size > l.front.opts.MaxHeaderBytes, size == 0 && len(data) > l.front.opts.MaxHeaderBytes:
		l.handOver(c, data)
		return
	case size == 0:
		l.keep(c, data)
		return
	}
	c.scanned = 0
	if l.ending || !l.head.parse(data[:size]) || !l.prepare(c) {
		l.handOver(c, data)
		return
	}
	rest := data[size:]
	x := c.flight
	if n := min(len(rest), x.length); n > 0 {
		x.kept.request.Body = append(make([]byte, 0, door.RoomFor(n, x.length, firstRoom)), rest[:n]...)
		rest = rest[n:]
	}
	if c.in = nil; len(rest) > 0 {
		c.in = append([]byte(nil), rest...)
	}
	if len(x.kept.request.Body) < x.length {
		c.phase = filling
		l.limitAt(c, c.since+int64(l.front.opts.ReadTimeout))
		if refuse := x.unwanted(); refuse != nil {
			l.answer(c, func(w http.ResponseWriter) int {
				w.Header().Set("Connection", "close")
				return refuse(w)
			})
			return
		}
		if err := x.hold(cap(x.kept.request.Body)); err != nil {
			l.overfull(c, err)
		}
		return
	}
	l.launch(c, len(rest) > 0 || !c.drained)
}

// keep keeps the beginning of a head until more of it comes.
func (l *loop) keep(c *conn, data []byte) {
	if c.phase == resting {
		c.phase = heading
		if c.used {
			c.since = l.time(l.now)
			l.limit(c, l.front.opts.ReadHeaderTimeout)
		}
	}
	if len(c.in) == 0 {
		c.in = append([]byte(nil), data...)
	}
	c.scanned = len(c.in)
}

// prepare makes a flight of the loop's head. It reports false if the request is not
// for an endpoint, nor for nothing.
func (l *loop) prepare(c *conn) bool {
	h, f := &l.head, l.front
	if f.draining.Load() || h.length > f.opts.MaxBodyBytes {
		return false
	}
	e, found := f.registry.Route(unsafeString(h.path))
	name := ""
	if found {
		name = e.Name
	} else if isOwn(unsafeString(h.path)) {
		return false
	}
	if f.opts.Auth != nil && !l.admit(e) {
		return false
	}
	if c.phase == resting && c.used {
		c.since = l.time(l.now)
	}
	if c.flight == nil {
		c.flight = newFlight(c)
	}
	c.flight.prepare(h, e, f.metrics.Get(name), l.now)
	if c.breaks = 0; h.method == http.MethodPost {
		c.breaks = maxBreaks
	}
	return true
}

// launch sends the connection's query off. busy tells that there may be more to read.
func (l *loop) launch(c *conn, busy bool) {
	x, e := c.flight, c.flight.endpoint
	c.phase = asking
	timeout := x.terms.timeout
	x.asked = l.now
	x.start(busy)
	limit := x.limit.Load()
	if limit == 0 { // it is not taken yet, or was refused
		limit = l.time(l.now) + int64(l.front.opts.IdleTimeout)
		if e != nil {
			limit = min(limit, l.time(l.now)+int64(e.Timeout()))
		}
		if timeout > 0 {
			limit = min(limit, l.time(l.now)+int64(timeout))
		}
	}
	l.await(c, limit)
}

// await has the loop look at a connection when its answer must be there, or when it
// would have been idle for too long, since nobody tells the loop of an answer.
func (l *loop) await(c *conn, limit int64) {
	l.limitAt(c, min(limit, l.time(l.now)+int64(l.front.opts.IdleTimeout)))
}

// handOver gives the connection to net/http, which begins with what was read.
func (l *loop) handOver(c *conn, read []byte) {
	if c.used && maybeHTTP2(read) {
		l.refuse(c)
		return
	}
	before := append([]byte(nil), read...)
	l.forget(c)
	file := os.NewFile(uintptr(c.fd), "connection")
	conn, err := net.FileConn(file)
	_ = file.Close() // conn has a descriptor of its own
	if err != nil {
		l.front.opts.Logger.Warn("a connection was lost", "error", err)
		l.front.connections.Leave()
		return
	}
	if conn.RemoteAddr() == nil { // it was reset; net/http's HTTP/2 would panic
		_ = conn.Close()
		l.front.connections.Leave()
		return
	}
	l.handed.put(&replayed{Conn: l.front.connections.Counted(conn), before: before})
}

// maybeHTTP2 reports whether HTTP/2 may begin with such bytes. To net/http every
// connection is a new one, but one that had requests in HTTP/1.1 may be a proxy's,
// which would not know what its clients begin to speak.
func maybeHTTP2(read []byte) bool {
	const preface = "PRI * HTTP/2.0\r\n\r\n"
	n := min(len(read), len(preface))
	return string(read[:n]) == preface[:n]
}

// refuse ends a connection as net/http does one that makes no sense.
func (l *loop) refuse(c *conn) {
	c.send([]byte("HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n400 Bad Request"), nil)
	c.last = true
	l.answered(c)
}
