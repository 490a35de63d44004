package rest

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// loop serves plain requests on many connections from one goroutine. It waits for
// all of them at once, with epoll, and reads those that are ready; whoever finishes
// a batch writes its answers. What is not plain goes to net/http.
type loop struct {
	front   *Front
	handed  *handover
	flights *sync.WaitGroup // goroutines that submit and answer

	epoll  int
	file   *os.File // the same, so that the runtime's own poller can wait for it
	raw    syscall.RawConn
	signal int // eventfd that ends a wait
	start  time.Time

	// The loop's own.
	now     time.Time
	events  [256]unix.EpollEvent
	buf     []byte
	head    head
	conns   []*conn // by descriptor
	open    int
	timers  deadlines
	armed   int64 // when the wait ends by itself
	ending  bool  // no new requests
	aborted bool  // no answers either
	failed  error // why the loop cannot go on

	mu      sync.Mutex
	posted  []*conn
	fresh   []int // descriptors
	orders  []func()
	pending bool // signal is set
	closed  bool
}

const readSize = 64 << 10

func newLoop(f *Front, handed *handover, flights *sync.WaitGroup) (*loop, error) {
	l := &loop{front: f, handed: handed, flights: flights, start: time.Now(), buf: make([]byte, readSize)}
	var err error
	if l.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, fmt.Errorf("epoll_create: %w", err)
	}
	if err := unix.SetNonblock(l.epoll, true); err != nil { // else the runtime would not poll it
		return nil, errors.Join(fmt.Errorf("epoll: %w", err), unix.Close(l.epoll))
	}
	l.file = os.NewFile(uintptr(l.epoll), "epoll")
	if l.raw, err = l.file.SyscallConn(); err != nil {
		return nil, errors.Join(fmt.Errorf("epoll: %w", err), l.file.Close())
	}
	if err := l.file.SetReadDeadline(time.Time{}); err != nil {
		return nil, errors.Join(fmt.Errorf("epoll cannot be waited for: %w", err), l.file.Close())
	}
	if l.signal, err = unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC); err != nil {
		return nil, errors.Join(fmt.Errorf("eventfd: %w", err), l.file.Close())
	}
	if err := l.watch(l.signal, unix.EPOLLIN); err != nil {
		return nil, errors.Join(err, l.file.Close(), unix.Close(l.signal))
	}
	return l, nil
}

// watch has the loop told of events, each time that one arises.
func (l *loop) watch(fd int, events uint32) error {
	event := unix.EpollEvent{Events: events | unix.EPOLLET, Fd: int32(fd)}
	if err := unix.EpollCtl(l.epoll, unix.EPOLL_CTL_ADD, fd, &event); err != nil {
		return fmt.Errorf("epoll_ctl: %w", err)
	}
	return nil
}

// time is a moment in the loop's time, nanoseconds since its start.
func (l *loop) time(t time.Time) int64 { return int64(t.Sub(l.start)) }

// post has the loop look at a connection whose flight has landed.
func (l *loop) post(c *conn) {
	l.mu.Lock()
	l.posted = append(l.posted, c)
	l.wake()
	l.mu.Unlock()
}

// add gives the loop a new connection, which is its to close.
func (l *loop) add(fd int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		l.shut(fd)
		return
	}
	l.fresh = append(l.fresh, fd)
	l.wake()
}

// order has the loop call a function.
func (l *loop) order(f func()) {
	l.mu.Lock()
	l.orders = append(l.orders, f)
	l.wake()
	l.mu.Unlock()
}

// wake ends a wait. mu is held.
func (l *loop) wake() {
	if l.pending || l.closed {
		return
	}
	l.pending = true
	one := [8]byte{1}
	_, _ = unix.Write(l.signal, one[:]) // it cannot be full: pending says that it is empty
}

// run serves until the loop is told to end and its connections are done. It returns
// an error only when it cannot wait any more.
func (l *loop) run() error {
	poll := l.poll
	for l.failed == nil && (!l.ending || l.open > 0) {
		l.arm()
		err := l.raw.Read(poll)
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			l.failed = fmt.Errorf("waiting for connections: %w", err)
		}
		l.expire()
	}
	return errors.Join(l.failed, l.close())
}

func (l *loop) close() error {
	for _, c := range l.conns {
		if c == nil {
			continue
		}
		// Whoever answers writes to the descriptor, which may be another's once it is closed.
		for c.phase == asking && !c.flight.hasLanded() && !c.flight.abandon() {
			runtime.Gosched() // it lands just now
		}
		l.end(c)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	for _, fd := range l.fresh {
		l.shut(fd)
	}
	return errors.Join(l.file.Close(), unix.Close(l.signal))
}

// poll handles what is ready. It reports false if nothing was, so that the
// runtime waits.
func (l *loop) poll(fd uintptr) bool {
	n, err := rawEpollWait(int(fd), l.events[:])
	if err != 0 && err != unix.EINTR {
		l.failed = fmt.Errorf("epoll_wait: %w", err)
		return true
	}
	if err != 0 || n == 0 {
		return err != 0
	}
	l.now = time.Now()
	signalled := false
	for i := range n {
		fd, events := int(l.events[i].Fd), l.events[i].Events
		if fd == l.signal {
			signalled = true
		} else if c := l.conns[fd]; c != nil {
			l.ready(c, events)
		}
	}
	if signalled {
		l.obey()
	}
	return true
}

// obey does what others asked for.
func (l *loop) obey() {
	var count [8]byte
	l.mu.Lock()
	_, _ = unix.Read(l.signal, count[:]) // sets it to 0
	posted, fresh, orders := l.posted, l.fresh, l.orders
	l.posted, l.fresh, l.orders, l.pending = nil, nil, nil, false
	l.mu.Unlock()
	for _, c := range posted {
		if c.phase != gone {
			l.ready(c, 0)
		}
	}
	for _, fd := range fresh {
		l.welcome(fd)
	}
	for _, f := range orders {
		f()
	}
}

// welcome begins to serve a connection.
func (l *loop) welcome(fd int) {
	c := &conn{loop: l, fd: fd, place: -1, since: l.time(l.now)}
	for fd >= len(l.conns) {
		l.conns = append(l.conns, nil)
	}
	if l.watch(fd, unix.EPOLLIN|unix.EPOLLOUT|unix.EPOLLRDHUP) != nil {
		l.shut(fd)
		return
	}
	l.conns[fd] = c
	l.open++
	l.limit(c, l.front.opts.ReadHeaderTimeout)
	if l.ending {
		l.dismiss(c)
	}
}

// limit bounds what a connection does.
func (l *loop) limit(c *conn, d time.Duration) { l.limitAt(c, l.time(l.now)+int64(d)) }

func (l *loop) limitAt(c *conn, at int64) {
	c.limit = at
	l.timers.set(c)
}

// arm sets when the wait ends by itself.
func (l *loop) arm() {
	next := int64(0)
	if len(l.timers) > 0 {
		next = l.timers[0].due
	}
	if next == l.armed || (l.armed != 0 && next > l.armed) || next == 0 {
		return // a wait that ends too early costs less than moving its end each time
	}
	l.armed = next
	_ = l.file.SetReadDeadline(l.start.Add(time.Duration(next))) // an epoll descriptor has deadlines, newLoop saw to it
}

// expire ends what took too long.
func (l *loop) expire() {
	if len(l.timers) == 0 && l.armed == 0 {
		return
	}
	if now := time.Now(); l.armed != 0 && l.time(now) >= l.armed {
		l.now, l.armed = now, 0
		_ = l.file.SetReadDeadline(time.Time{})
		for {
			c, _ := l.timers.next(l.time(now))
			if c == nil {
				return
			}
			l.expired(c)
		}
	}
}

// end closes a connection.
func (l *loop) end(c *conn) {
	l.forget(c)
	l.shut(c.fd)
}

// shut closes a connection's descriptor.
func (l *loop) shut(fd int) {
	_ = unix.Close(fd)
	l.front.connections.Leave()
}

// forget takes a connection off the loop.
func (l *loop) forget(c *conn) {
	event := unix.EpollEvent{}
	_ = unix.EpollCtl(l.epoll, unix.EPOLL_CTL_DEL, c.fd, &event) // it was added
	l.timers.drop(c)
	l.front.unsent.Add(-int64(len(c.out)))
	if c.phase == filling {
		c.flight.giveBack()
	}
	l.conns[c.fd], c.phase, c.in, c.out, c.flight = nil, gone, nil, nil, nil
	l.open--
}

// drain ends what waits for a request, and has the rest end with its answer.
func (l *loop) drain() {
	l.ending, l.now = true, time.Now()
	for _, c := range l.conns {
		if c != nil {
			l.drainOne(c)
		}
	}
}

func (l *loop) drainOne(c *conn) {
	defer l.recovered(c)
	if c.phase == asking && c.flight.hasLanded() {
		l.landed(c)
	}
	l.dismiss(c)
}

// dismiss ends a connection that has no request. One that has is net/http's to refuse.
func (l *loop) dismiss(c *conn) {
	if c.phase == resting {
		l.read(c)
	}
	switch c.phase {
	case resting:
		l.end(c)
	case heading:
		l.handOver(c, c.in)
	}
}

// idlest is since when the connection waits for a request that has waited longest, if
// one does.
func (l *loop) idlest() (since time.Time, found bool) {
	first := int64(0)
	for _, c := range l.conns {
		if c == nil {
			continue
		}
		if since, waits := l.waits(c); waits && (!found || since < first) {
			first, found = since, true
		}
	}
	return l.start.Add(time.Duration(first)), found
}

// shed ends up to n connections that have waited for a request since a moment or
// longer, and returns how many.
func (l *loop) shed(moment time.Time, n int) (ended int) {
	for _, c := range l.conns {
		if ended == n {
			break
		}
		if c == nil {
			continue
		}
		if since, waits := l.waits(c); waits && since <= l.time(moment) && l.dropIdle(c) {
			ended++
		}
	}
	return ended
}

// waits reports whether a connection waits for a request, and since when. Of its last
// answer the loop may not have heard: nobody tells it before there is something to do.
func (l *loop) waits(c *conn) (since int64, waits bool) {
	switch {
	case c.phase == asking && c.flight.state.Load()&^again == landed:
		return max(c.flight.ended, c.since), true
	case c.phase == resting && c.used:
		return c.limit - int64(l.front.opts.IdleTimeout), true
	case c.phase == resting:
		return c.limit - int64(l.front.opts.ReadHeaderTimeout), true
	}
	return 0, false
}

// dropIdle ends a connection that waits, unless its request has just come.
func (l *loop) dropIdle(c *conn) (ended bool) {
	defer l.recovered(c)
	if c.phase == asking {
		l.landed(c)
	}
	if c.phase == resting {
		l.read(c)
	}
	if ended = c.phase == resting; ended {
		l.end(c)
	}
	return ended
}

// abort ends every connection, whatever it is at.
func (l *loop) abort() {
	l.ending, l.aborted, l.now = true, true, time.Now()
	for _, c := range l.conns {
		switch {
		case c == nil:
		case c.phase != asking, c.flight.hasLanded(), c.flight.abandon():
			l.end(c)
		} // else it lands just now, and comes back
	}
}

// recovered ends the connection at which the loop panicked. It would be the end of
// the process and of all its connections.
func (l *loop) recovered(c *conn) {
	v := recover()
	if v == nil {
		return
	}
	l.front.opts.Logger.Error("a connection made the server panic and was closed", "panic", v, "stack", string(debug.Stack()))
	x := c.flight
	switch {
	case c.phase == gone:
		return
	case c.phase == asking && x != nil && !x.hasLanded() && !x.abandon():
		return // it lands just now, and comes back
	case x != nil:
		x.giveBack()
	}
	c.phase = lingering // whatever it was at, it is at no body any more
	l.end(c)
}
