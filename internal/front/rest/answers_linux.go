package rest

import (
	"net/http"
	"time"

	"golang.org/x/sys/unix"
)

// This file goes on with a connection when its flight has landed, its client has
// left, or its time is over.

func (l *loop) expired(c *conn) {
	defer l.recovered(c)
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
	err := noAnswer(x.call.Backend, timeout)
	l.answer(c, func(w http.ResponseWriter) int { return fail(w, x.kept.request.ID, err, false) })
	l.post(c) // what came meanwhile made its event then
}

// hasLanded asks the flight to post its connection when it lands, and reports
// whether it has landed already.
func (x *flight) hasLanded() bool { return x.state.Or(again)&^again == landed }

// ready goes on with a connection of which something has changed.
func (l *loop) ready(c *conn, events uint32) {
	defer l.recovered(c)
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
		if !c.flush() {
			if c.owed-len(c.out) >= pacedChunk {
				l.pace(c)
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

// overfull answers a client for whose body there is no room at the moment.
func (l *loop) overfull(c *conn, err error) {
	l.front.opts.Metrics.Refused("http", "inflight_bytes")
	id := c.flight.kept.request.ID
	l.answer(c, func(w http.ResponseWriter) int {
		w.Header().Set("Connection", "close")
		return fail(w, id, err, false)
	})
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
	l.pace(c)
}

// pace gives a client time for the next part of its answer.
func (l *loop) pace(c *conn) {
	c.owed = len(c.out)
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

// answer has the loop itself answer for a flight that nobody else will.
func (l *loop) answer(c *conn, respond func(http.ResponseWriter) int) {
	x := c.flight
	x.giveBack()
	c.flight, c.phase = nil, writing // a connection that is filling has a flight
	x.respondWith(respond)
	l.answered(c)
}
