package door

import (
	"container/list"
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// Connections bounds the connections of a front. Once there are as many as there may
// be, those that wait for a request make room for new ones, the one that has waited
// longest first, as in nginx: strangers cannot hold all places by doing nothing. Where
// none waits, those that are too many are told so and closed: if they had to wait to
// be accepted, whoever holds all the others open would hold them up, too.
type Connections struct {
	limit int64
	open  atomic.Int64
	say   []byte // to those that are too many
	log   *slog.Logger

	turned   rate.Sometimes // bounds the log, as madeRoom does
	madeRoom rate.Sometimes
	refused  func()

	mu      sync.Mutex
	idle    list.List                  // of net.Conn that wait for a request, the one that waits longest first
	places  map[net.Conn]*list.Element // in idle
	tryRoom time.Time                  // when it may be looked for those that wait again

	telling chan struct{} // has room for those who are being told
	told    sync.WaitGroup
}

const (
	// tellAtOnce is how many are told at a time that they are too many, and for how
	// long each is listened to: what it still sends would destroy the answer. The
	// rest is just closed.
	tellAtOnce = 64
	tellFor    = 200 * time.Millisecond
	// looksEvery is how often it is looked for connections that wait, if there was none
	// before: to look takes time, of which whoever opens many must not get much.
	looksEvery = 50 * time.Millisecond
	// logEvery is how often the log says that connections are turned away, or closed.
	logEvery = 10 * time.Second
)

// NewConnections returns a bound. Those that are too many are told what say holds, if
// anything; refused is called for each of them.
func NewConnections(limit int64, say []byte, refused func(), log *slog.Logger) *Connections {
	return &Connections{
		limit: limit, say: say, refused: refused, log: log, turned: rate.Sometimes{Interval: logEvery}, madeRoom: rate.Sometimes{Interval: logEvery},
		places: make(map[net.Conn]*list.Element), telling: make(chan struct{}, tellAtOnce),
	}
}

// Open is how many connections are open.
func (c *Connections) Open() int64 { return c.open.Load() }

// Enter counts a connection, or turns it away and reports false. shed, which may be
// nil, closes some that wait for a request and that State does not know of; it
// reports false if there are none.
func (c *Connections) Enter(conn net.Conn, shed func() bool) bool {
	if c.take() {
		return true
	}
	c.makeRoom(shed)
	if c.take() {
		return true
	}
	c.refused()
	c.turned.Do(func() {
		c.log.Warn("connections are turned away: as many are open as max_connections allows, and no idle one was found", "max_connections", c.limit)
	})
	c.turnAway(conn)
	return false
}

func (c *Connections) take() bool {
	if c.open.Add(1) <= c.limit {
		return true
	}
	c.open.Add(-1)
	return false
}

// makeRoom closes connections that wait for a request, if there are any.
func (c *Connections) makeRoom(shed func() bool) {
	c.mu.Lock()
	early := time.Now().Before(c.tryRoom)
	c.mu.Unlock()
	if early {
		return
	}
	made := c.closeIdlest()
	if shed != nil && shed() { // also then: nobody can say which of the two has waited longer
		made = true
	}
	if !made {
		c.mu.Lock()
		c.tryRoom = time.Now().Add(looksEvery)
		c.mu.Unlock()
		return
	}
	c.madeRoom.Do(func() {
		c.log.Warn("idle connections are closed for others: as many are open as max_connections allows", "max_connections", c.limit)
	})
}

// closeIdlest closes the connection that State has known to wait for longest.
func (c *Connections) closeIdlest() bool {
	c.mu.Lock()
	first := c.idle.Front()
	var conn net.Conn
	if first != nil {
		conn = c.idle.Remove(first).(net.Conn)
		delete(c.places, conn)
	}
	c.mu.Unlock()
	if conn == nil {
		return false
	}
	if secure, ok := conn.(*tls.Conn); ok {
		conn = secure.NetConn() // whose client might keep a goodbye waiting
	}
	_ = conn.Close()
	return true
}

// State notes which connections of a server wait for a request. It is the server's ConnState.
func (c *Connections) State(conn net.Conn, state http.ConnState) {
	waits := state == http.StateNew || state == http.StateIdle
	c.mu.Lock()
	defer c.mu.Unlock()
	if place := c.places[conn]; place != nil {
		c.idle.Remove(place)
		delete(c.places, conn)
	}
	if waits {
		c.places[conn] = c.idle.PushBack(conn)
	}
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
		if l.connections.Enter(conn, nil) {
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
