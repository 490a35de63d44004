package rest

import (
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/shoalserve/shoal/internal/front/door"
)

// conn is one connection of a loop. While nothing is under way it is little more
// than a descriptor: no goroutine, no buffer.
type conn struct {
	loop  *loop
	fd    int
	phase phase

	place int32 // in the loop's deadlines, -1 when it is not there
	due   int64 // when it is looked at
	limit int64 // when what it does must be over
	since int64 // when its request began to arrive

	used    bool // it had a request before
	breaks  int8 // line breaks, in bytes, that may come before the next one
	left    bool // the other side has ended its half, or the connection is broken
	drained bool // the last read left nothing behind
	scanned int  // bytes of in that hold no end of a head
	in      []byte
	flight  *flight

	// Set by whoever answers.
	last   bool // the answer said that the connection ends with it
	broken bool // writing failed
	out    []byte

	owed int // of out when the client was last given time
}

// phase is what a connection is at.
type phase uint8

const (
	resting   phase = iota // no request is there
	heading                // a part of a head is
	filling                // a head is, and a part of its body
	asking                 // the query is under way: its flight has the connection
	writing                // the client is slow to take its answer
	lingering              // the answer was the last: what still comes is dropped
	gone                   // closed, or handed over
)

// maxBreaks is how many bytes of line breaks net/http takes between a POST and the
// next request, since old clients send some.
const maxBreaks = 4

// skipBreaks takes line breaks off the bytes that a request begins with, as far as
// they are allowed.
func (c *conn) skipBreaks(data []byte) []byte {
	for ; c.breaks > 0 && len(data) > 0; c.breaks-- {
		if !isBreak(data[0]) {
			c.breaks = 0
			break
		}
		data = data[1:]
	}
	return data
}

func isBreak(b byte) bool { return b == '\r' || b == '\n' }

// send writes as much as the kernel takes and keeps the rest, in memory of its own.
func (c *conn) send(head, body []byte) {
	n, err := c.write(head, body)
	if err != 0 {
		if n = 0; err != unix.EAGAIN && err != unix.EINTR {
			c.broken = true
			return
		}
	}
	rest := len(head) + len(body) - n
	if rest == 0 {
		return
	}
	if c.loop.front.unsent.Add(int64(rest)) > maxUnsent {
		c.loop.front.unsent.Add(-int64(rest))
		c.loop.front.opts.Logger.Warn("a connection was closed", "error", errUnsent)
		c.broken = true
		return
	}
	c.out = make([]byte, 0, rest)
	if n < len(head) {
		c.out, n = append(c.out, head[n:]...), len(head)
	}
	c.out = append(c.out, body[n-len(head):]...)
}

func (c *conn) write(head, body []byte) (int, syscall.Errno) {
	if len(body) == 0 {
		return rawWrite(c.fd, head)
	}
	n, err := unix.Writev(c.fd, [][]byte{head, body})
	number, _ := err.(syscall.Errno) //nolint:errorlint // it is one, or nil
	return n, number
}

// flush writes what is left of an answer. It reports whether all is written.
func (c *conn) flush() bool {
	for len(c.out) > 0 {
		n, err := rawWrite(c.fd, c.out)
		switch err {
		case 0:
			c.loop.front.unsent.Add(-int64(n))
			c.out = c.out[n:]
		case unix.EINTR:
		case unix.EAGAIN:
			return false
		default:
			c.broken = true
			return true
		}
	}
	c.out = nil
	return true
}

// hasLeft reports whether the client's half of the connection has ended with
// nothing unread before it.
func (c *conn) hasLeft() (left, broken bool) {
	if len(c.in) > 0 {
		return false, false
	}
	var one [1]byte
	n, _, err := unix.Recvfrom(c.fd, one[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
	switch err { //nolint:errorlint // it is a number
	case nil:
		return n == 0, false
	case unix.EAGAIN, unix.EINTR:
		return false, false
	}
	return true, true
}

// room is memory for more of the flight's body. It grows as the body comes: a
// length that was only announced costs nothing. It returns an error when all bodies
// that are arriving have as much memory as they may.
func (x *flight) room() ([]byte, error) {
	body := x.kept.request.Body
	if len(body) == cap(body) {
		room := door.RoomFor(len(body), x.length, firstRoom)
		if err := x.hold(room - cap(body)); err != nil {
			return nil, err
		}
		body = door.Grown(body, room)
		x.kept.request.Body = body
	}
	return body[len(body):min(cap(body), x.length)], nil
}

// hold counts memory of a body that is arriving; giveBack counts it no more.
func (x *flight) hold(n int) error {
	err := x.front().arriving.Take(n)
	if err == nil {
		x.held += n
	}
	return err
}

func (x *flight) giveBack() {
	x.front().arriving.Give(x.held)
	x.held = 0
}

// fill takes n bytes that were read into the room and reports whether the body is whole.
func (x *flight) fill(n int) bool {
	body := x.kept.request.Body
	x.kept.request.Body = body[: len(body)+n : cap(body)]
	return len(body)+n == x.length
}
