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

const (
	// shedPatience bounds the wait for the loops, which have their connections to serve as well.
	shedPatience = 100 * time.Millisecond
	// shedPart is the part of all connections that is closed at a time: to find them
	// takes a look at each.
	shedPart = 512
)

// shed has loops close connections that wait for a request: of those that have waited
// at least half as long as the one that has waited longest some, at least one. It
// reports whether there were any.
func (s *loops) shed() bool {
	wanted, done := context.WithTimeout(context.Background(), shedPatience)
	defer done()
	first, moment := -1, time.Time{}
	for i, l := range s.all {
		idlest := make(chan time.Time, 1)
		l.order(func() {
			if since, found := l.idlest(); found {
				idlest <- since
			}
			close(idlest)
		})
		select {
		case since, found := <-idlest:
			if found && (first < 0 || since.Before(moment)) {
				first, moment = i, since
			}
		case <-s.ended:
			return false
		case <-wanted.Done():
			return false
		}
	}
	if first < 0 {
		return false
	}
	moment = moment.Add(time.Since(moment) / 2)
	for i := range s.all {
		if s.shedFrom(wanted, s.all[(first+i)%len(s.all)], moment) {
			return true
		}
	}
	return false
}

// shedFrom has one loop close some, unless it is too late.
func (s *loops) shedFrom(wanted context.Context, l *loop, moment time.Time) bool {
	ended := make(chan int, 1)
	l.order(func() {
		if wanted.Err() == nil {
			ended <- l.shed(moment, max(1, s.front.opts.MaxConnections/shedPart))
		}
	})
	select {
	case n := <-ended:
		return n > 0
	case <-s.ended:
	case <-wanted.Done():
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
