package python

import (
	"syscall"
	"time"

	"github.com/shoalserve/shoal/internal/wire"
)

// killAfter is how long a worker may take to end once it got SIGTERM.
const killAfter = 5 * time.Second

// Interrupt implements serving.Interrupter: the worker gets SIGTERM, and SIGKILL
// if it does not end.
func (w *worker) Interrupt(id uint64, err error) {
	w.mu.Lock()
	w.verdict, w.guilty = err, id
	var b *callBatch
	if w.sending.Load() != id { // else its queries are still read; Stop fails it
		b = w.inFlight[id]
		delete(w.inFlight, id)
	}
	w.mu.Unlock()
	w.signal(syscall.SIGTERM)
	w.signal(syscall.SIGCONT) // a stopped process acts on signals once it goes on
	time.AfterFunc(killAfter, w.kill)
	if b != nil {
		b.Interrupted(err)
	}
}

// Gone implements serving.Interrupter.
func (w *worker) Gone() <-chan struct{} { return w.ended }

// Ping implements serving.Pulsed. A worker reads frames in order, and while it
// computes it may read none, so it is asked only while it has no batch; what is sent
// after the PING does not delay the answer. Of a worker that has batches it is known
// at least whether the system has stopped it.
func (w *worker) Ping() (owes time.Time) {
	halted := stopped(w.PID())
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case !halted:
		w.halted = time.Time{}
	case w.halted.IsZero():
		w.halted = time.Now()
	}
	if owes = w.pinged; owes.IsZero() {
		owes = w.halted
	}
	if w.pinged.IsZero() && len(w.inFlight) == 0 && w.writing.TryLock() {
		defer w.writing.Unlock()
		w.ping()
	}
	return owes
}

// ping sends a PING. writing and mu are held, and nothing is in flight: the socket
// has room for it.
func (w *worker) ping() {
	frame := wire.Begin(nil, wire.Ping)
	if w.over || wire.End(frame, 0, 0) != nil {
		return
	}
	w.pinged = time.Now()
	_, _ = w.conn.Write(frame) // a socket that is broken ends read, which tells
}

func (w *worker) pong() {
	w.mu.Lock()
	w.pinged = time.Time{}
	w.mu.Unlock()
}
