package door

import (
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// Connections bounds the connections of a front. Those that are too many are told
// so and closed: if they had to wait to be accepted, whoever holds all the others
// open would hold them up, too.
type Connections struct {
	limit int64
	open  atomic.Int64
	say   []byte // to those that are too many
	log   *slog.Logger

	logged  rate.Sometimes
	refused func()

	telling chan struct{} // has room for those who are being told
	told    sync.WaitGroup
}

const (
	// tellAtOnce is how many are told at a time that they are too many, and for how
	// long each is listened to: what it still sends would destroy the answer. The
	// rest is just closed.
	tellAtOnce = 64
	tellFor    = 200 * time.Millisecond
	// logEvery is how often the log says that connections are turned away.
	logEvery = 10 * time.Second
)

// NewConnections returns a bound. Those that are too many are told what say holds, if
// anything;
// refused is called for each of them.
func NewConnections(limit int64, say []byte, refused func(), log *slog.Logger) *Connections {
	return &Connections{limit: limit, say: say, refused: refused, log: log, logged: rate.Sometimes{Interval: logEvery}, telling: make(chan struct{}, tellAtOnce)}
}

// Open is how many connections are open.
func (c *Connections) Open() int64 { return c.open.Load() }

// Enter counts a connection, or turns it away and reports false.
func (c *Connections) Enter(conn net.Conn) bool {
	if c.open.Add(1) <= c.limit {
		return true
	}
	c.open.Add(-1)
	c.refused()
	c.logged.Do(func() {
		c.log.Warn("connections are turned away: as many are open as max_connections allows", "max_connections", c.limit)
	})
	c.turnAway(conn)
	return false
}

// Leave counts a connection less.
func (c *Connections) Leave() { c.open.Add(-1) }

// turnAway closes a connection, and tells why if it may take the time.
func (c *Connections) turnAway(conn net.Conn) {
	if len(c.say) == 0 {
		_ = conn.Close()
		return
	}
	select {
	case c.telling <- struct{}{}:
	default:
		_ = conn.Close()
		return
	}
	c.told.Go(func() { // ends within twice tellFor; Wait waits for it
		defer func() { <-c.telling }()
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(tellFor)) // a connection that is gone needs no answer
		if _, err := conn.Write(c.say); err != nil {
			return
		}
		if half, ok := conn.(interface{ CloseWrite() error }); ok && half.CloseWrite() == nil {
			_, _ = io.Copy(io.Discard, conn)
		}
	})
}

// Wait returns when nobody is being told any more.
func (c *Connections) Wait() { c.told.Wait() }

// Listen returns a listener whose connections are counted.
func (c *Connections) Listen(l net.Listener) net.Listener { return &listener{l, c} }

type listener struct {
	net.Listener
	connections *Connections
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if l.connections.Enter(conn) {
			return l.connections.Counted(conn), nil
		}
	}
}

// Counted is a connection that has entered, and leaves when it is closed.
func (c *Connections) Counted(conn net.Conn) net.Conn {
	return &counted{Conn: conn, leave: sync.OnceFunc(c.Leave)}
}

type counted struct {
	net.Conn
	leave func()
}

// Close implements net.Conn.
func (c *counted) Close() error {
	c.leave()
	return c.Conn.Close()
}

// CloseWrite ends the sending half, so that the last answer arrives whole.
func (c *counted) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}
