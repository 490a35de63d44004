package rest

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/shoalserve/shoal/internal/serving"
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
		_ = unix.Close(fd)
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
		_ = unix.Close(fd)
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
		_ = unix.Close(fd)
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

func (l *loop) expired(c *conn) {
	switch c.phase {
	case asking:
		l.overdue(c)
	case filling:
		id := c.flight.kept.request.ID
		l.answer(c, func(w http.ResponseWriter) int {
			w.Header().Set("Connection", "close")
			return write(w, id, tooSlow())
		})
	default:
		l.end(c)
	}
}

// overdue answers for a backend that gave no answer in time.
func (l *loop) overdue(c *conn) {
	x := c.flight
	if x.hasLanded() {
		l.landed(c)
		return
	}
	if limit := x.limit.Load(); limit > l.time(l.now) {
		l.await(c, limit)
		return
	} else if limit == 0 || !x.abandon() {
		l.limit(c, 100*time.Millisecond) // it is only being submitted, or lands just now
		return
	}
	timeout := time.Duration(x.limit.Load() - l.time(x.asked))
	err := serving.Errorf(serving.DeadlineExceeded, "backend %q gave no answer within %v", x.call.Backend.Name(), timeout)
	l.answer(c, func(w http.ResponseWriter) int { return fail(w, x.kept.request.ID, err, false) })
	l.post(c) // what came meanwhile made its event then
}

// hasLanded asks the flight to post its connection when it lands, and reports
// whether it has landed already.
func (x *flight) hasLanded() bool { return x.state.Or(again)&^again == landed }

// ready goes on with a connection of which something has changed.
func (l *loop) ready(c *conn, events uint32) {
	if events&(unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		c.left = true
	}
	if c.phase == asking {
		if !c.flight.hasLanded() {
			if c.left {
				l.departed(c)
			}
			return
		}
		l.landed(c)
	}
	if c.phase == writing {
		if before := len(c.out); !c.flush() {
			if len(c.out) < before {
				l.limit(c, l.front.opts.WriteTimeout)
			}
			return
		}
		l.rest(c)
	}
	l.read(c)
}

// departed withdraws the query of a client that has left.
func (l *loop) departed(c *conn) {
	left, broken := c.hasLeft()
	x := c.flight
	if !left || !x.abandon() {
		if x.hasLanded() {
			l.post(c) // there may be no other event
		}
		return
	}
	if broken {
		x.route.Request(clientLeft, time.Since(x.began))
		l.end(c)
		return
	}
	l.answer(c, goodbye)
}

// goodbye is the answer to a client that ended its half of the connection. It may
// still read, and must not be told that all is well.
func goodbye(w http.ResponseWriter) int {
	w.Header().Set("Connection", "close")
	w.WriteHeader(clientLeft)
	return clientLeft
}

// landed takes a connection back from a flight that is over.
func (l *loop) landed(c *conn) {
	if c.flight.once {
		c.flight = nil
	}
	l.answered(c)
}

// answered goes on after an answer.
func (l *loop) answered(c *conn) {
	if c.broken || l.aborted || len(c.out) == 0 {
		l.rest(c)
		return
	}
	c.phase = writing
	l.limit(c, l.front.opts.WriteTimeout)
}

// rest lets a connection wait for its next request.
func (l *loop) rest(c *conn) {
	switch {
	case c.broken || l.aborted:
		l.end(c)
	case c.last:
		c.phase, c.in = lingering, nil
		_ = unix.Shutdown(c.fd, unix.SHUT_WR) // a connection that is gone is seen when it is read
		l.limit(c, lingerTime)
	default:
		c.phase, c.used = resting, true
		from := l.time(l.now)
		if c.flight != nil {
			from = max(c.flight.ended, c.since)
		}
		l.limitAt(c, from+int64(l.front.opts.IdleTimeout))
		if in := c.in; len(in) > 0 {
			c.in = nil
			l.take(c, in)
		}
		if l.ending {
			l.dismiss(c)
		}
	}
}

// lingerTime is how long a client has to read the last answer before what it still
// sends would destroy it.
const lingerTime = 500 * time.Millisecond

// answer has the loop itself answer for a flight that nobody else will.
func (l *loop) answer(c *conn, respond func(http.ResponseWriter) int) {
	x := c.flight
	c.flight = nil
	l.render(c, x, respond)
	l.answered(c)
}

func (l *loop) render(c *conn, x *flight, respond func(http.ResponseWriter) int) {
	now, r := time.Now(), rendered{header: make(http.Header)}
	x.route.Request(respond(&r), now.Sub(x.began))
	c.last = l.front.draining.Load() || r.header["Connection"] != nil
	buf := r.appendHead(nil, &l.front.date, now, c.last)
	if x.kept.request.Method != http.MethodHead {
		buf = append(buf, r.body...)
	}
	c.send(buf, nil)
}

// read reads what there is.
func (l *loop) read(c *conn) {
	for c.phase != asking && c.phase != writing && c.phase != gone {
		room := l.buf
		if c.phase == filling {
			room = c.flight.room()
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
		x.kept.request.Body = append(make([]byte, 0, min(x.length, max(n, firstRoom))), rest[:n]...)
		rest = rest[n:]
	}
	if c.in = nil; len(rest) > 0 {
		c.in = append([]byte(nil), rest...)
	}
	if len(x.kept.request.Body) < x.length {
		c.phase = filling
		l.limitAt(c, c.since+int64(l.front.opts.ReadTimeout))
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
	timeout := x.timeout
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
		return
	}
	l.handed.put(&replayed{Conn: conn, before: before})
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

// end closes a connection.
func (l *loop) end(c *conn) {
	l.forget(c)
	_ = unix.Close(c.fd)
}

// forget takes a connection off the loop.
func (l *loop) forget(c *conn) {
	event := unix.EpollEvent{}
	_ = unix.EpollCtl(l.epoll, unix.EPOLL_CTL_DEL, c.fd, &event) // it was added
	l.timers.drop(c)
	l.front.unsent.Add(-int64(len(c.out)))
	l.conns[c.fd], c.phase, c.in, c.out, c.flight = nil, gone, nil, nil, nil
	l.open--
}

// drain ends what waits for a request, and has the rest end with its answer.
func (l *loop) drain() {
	l.ending, l.now = true, time.Now()
	for _, c := range l.conns {
		if c == nil {
			continue
		}
		if c.phase == asking && c.flight.hasLanded() {
			l.landed(c)
		}
		l.dismiss(c)
	}
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
