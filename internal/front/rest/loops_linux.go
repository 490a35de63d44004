package rest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// loops are the event-driven front: a goroutine that accepts connections, and
// loops that share them.
type loops struct {
	front    *Front
	listener net.Listener
	handed   *handover
	all      []*loop
	running  sync.WaitGroup // the loops
	flights  sync.WaitGroup
	closing  sync.Once
	ended    chan struct{} // closed when all loops have ended
	landed   chan struct{} // closed when the flights have, too
}

// loops returns the event-driven front for a listener, and what it hands over.
func (f *Front) loops(listener net.Listener) (plainServer, net.Listener, error) {
	if _, ok := listener.(syscall.Conn); !ok {
		return nil, nil, fmt.Errorf("a listener of type %T has no descriptor", listener)
	}
	s := &loops{front: f, listener: listener, handed: newHandover(listener.Addr()), ended: make(chan struct{}), landed: make(chan struct{})}
	for range loopCount() {
		l, err := newLoop(f, s.handed, &s.flights)
		if err != nil {
			for _, l := range s.all {
				err = errors.Join(err, l.close())
			}
			return nil, nil, err
		}
		s.all = append(s.all, l)
	}
	for _, l := range s.all {
		s.running.Go(func() { // ends with drain or abort
			if err := l.run(); err != nil {
				f.opts.Logger.Error("a loop failed", "error", err)
				_ = s.listener.Close() // ends the whole front
			}
		})
	}
	go func() { // ends with the loops and what they began
		s.running.Wait()
		close(s.ended)
		s.flights.Wait()
		close(s.landed)
	}()
	return s, s.handed, nil
}

// loopCount is half of the processors: a loop does less for a query than those who
// compute and answer it.
func loopCount() int { return min(8, max(1, runtime.GOMAXPROCS(0)/2)) }

// serve implements plainServer.
func (s *loops) serve() error {
	pause := time.Duration(0)
	for next := 0; ; next++ {
		conn, err := s.listener.Accept()
		if err == nil {
			if pause = 0; s.front.connections.Enter(conn, s.shed) {
				s.welcome(conn, s.all[next%len(s.all)])
			}
			continue
		}
		if temporary, ok := errors.AsType[net.Error](err); !ok || !temporary.Temporary() { //nolint:staticcheck // what net/http asks, too
			return err
		}
		// As a rule there are no descriptors left.
		pause = min(max(2*pause, 5*time.Millisecond), time.Second)
		s.front.opts.Logger.Warn("accepting a connection failed and is tried again", "error", err, "pause", pause)
		time.Sleep(pause)
	}
}

// shedPatience bounds the wait for a loop, which has its connections to serve as well.
const shedPatience = 100 * time.Millisecond

// shed has a loop close the connection that has waited longest for a request, and
// reports whether there was one.
func (s *loops) shed() bool {
	found := make(chan bool, len(s.all))
	late := time.After(shedPatience)
	for _, l := range s.all {
		l.order(func() { found <- l.shed() })
		select {
		case did := <-found:
			if did {
				return true
			}
		case <-s.ended:
			return false
		case <-late:
			return false
		}
	}
	return false
}

// welcome gives a connection to a loop.
func (s *loops) welcome(conn net.Conn, l *loop) {
	fd, err := detach(conn)
	if err != nil {
		s.handed.put(s.front.connections.Counted(conn))
		return
	}
	l.add(fd)
}

// detach takes a connection's descriptor from the runtime's poller.
func detach(conn net.Conn) (fd int, err error) {
	source, ok := conn.(syscall.Conn)
	if !ok {
		return 0, fmt.Errorf("a connection of type %T has no descriptor", conn)
	}
	raw, err := source.SyscallConn()
	if err != nil {
		return 0, err
	}
	var failed error
	err = raw.Control(func(own uintptr) { fd, failed = unix.FcntlInt(own, unix.F_DUPFD_CLOEXEC, 0) })
	if err = errors.Join(err, failed); err != nil {
		return 0, fmt.Errorf("taking a connection: %w", err)
	}
	_ = conn.Close() // fd lives on
	return fd, nil
}

// drain implements plainServer.
func (s *loops) drain() {
	_ = s.listener.Close()
	drained := make(chan struct{}, len(s.all))
	for _, l := range s.all {
		l.order(func() {
			l.drain()
			drained <- struct{}{}
		})
	}
	for range s.all {
		select {
		case <-drained:
		case <-s.ended:
			return
		}
	}
}

// wait implements plainServer.
func (s *loops) wait(ctx context.Context) error {
	select {
	case <-s.landed:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// close implements plainServer.
func (s *loops) close() error {
	s.closing.Do(func() {
		_ = s.listener.Close()
		for _, l := range s.all {
			l.order(l.abort)
		}
	})
	<-s.ended
	return nil
}
