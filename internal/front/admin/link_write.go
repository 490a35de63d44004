package admin

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"net"
	"os"
	"time"

	"github.com/shoalserve/shoal/internal/serving"
	"github.com/shoalserve/shoal/internal/wire"
)

const (
	// maxOutbox is how much may wait for a client that does not read, before
	// its queries are not read either.
	maxOutbox = 64 << 20
	// burstBytes is how much gathers at most while the reader is busy.
	burstBytes = 16 << 10
	// answerFixed is the length of an ANSWER's kind and count, and answerEach
	// that of the fields that each of its answers has.
	answerFixed, answerEach = 5, 13
	// alone is the size from which an answer has a frame of its own: a client
	// that keeps a part of it then keeps no others.
	alone = 4 << 10
	// loose is the size from which a payload is sent from where it is and not
	// copied.
	loose = 32 << 10
	// linkTimeout is how long a client may take none of its answers, or less than
	// writeChunk of them. It is longer than that of calls: a link that is closed
	// fails all that its client waits for.
	linkTimeout = time.Minute
	// keptOutbox is the most memory that an outbox keeps for the next burst.
	keptOutbox = 1 << 20
)

// outbox gathers frames for the writer: small ones one after the other in tail,
// large payloads as pieces between them, and small answers in one frame that
// goes to the end of the tail when the writer comes.
type outbox struct {
	answers answers
	pieces  net.Buffers // complete, in front of tail
	tail    []byte
	spare   []byte // what the writer gave back
	pieced  bool   // tail shares memory with a piece
	size    int    // bytes that were not written yet, also those being written
	waiting int    // of these, the bytes that the writer has not taken
	closed  bool   // nobody will take what is put in
}

func (o *outbox) empty() bool { return o.waiting == 0 }

func (o *outbox) early(raw []byte) {
	o.tail = append(o.tail, raw...)
	o.count(len(raw))
}

func (o *outbox) count(n int) {
	o.size += n
	o.waiting += n
}

func (o *outbox) frame(kind wire.Kind, body []byte) {
	if o.closed {
		return
	}
	o.tail = binary.LittleEndian.AppendUint32(o.tail, uint32(1+len(body)))
	o.tail = append(append(o.tail, byte(kind)), body...)
	o.count(wire.HeaderSize + len(body))
}

func (o *outbox) answer(ref uint64, code uint8, payload []byte) {
	if o.closed {
		return
	}
	if len(payload) < alone {
		if o.answers.count == 0 {
			o.count(4 + answerFixed)
		}
		o.answers.add(ref, code, len(payload))
		o.answers.payloads = append(o.answers.payloads, payload...)
		o.count(answerEach + len(payload))
		return
	}
	var one answers
	one.add(ref, code, len(payload))
	o.tail = one.appendHead(o.tail, len(payload))
	o.count(4 + answerFixed + answerEach + len(payload))
	if len(payload) < loose {
		o.tail = append(o.tail, payload...)
		return
	}
	o.pieces = append(o.pieces, o.tail, payload)
	o.tail, o.pieced = o.tail[len(o.tail):], true
}

// answers is an ANSWER frame that is being gathered.
type answers struct {
	count                          uint32
	refs, codes, lengths, payloads []byte
}

func (a *answers) add(ref uint64, code uint8, length int) {
	a.count++
	a.refs = binary.LittleEndian.AppendUint64(a.refs, ref)
	a.codes = append(a.codes, code)
	a.lengths = binary.LittleEndian.AppendUint32(a.lengths, uint32(length))
}

// appendHead appends all of the frame but its payloads, of the given length.
func (a *answers) appendHead(buf []byte, payloads int) []byte {
	le := binary.LittleEndian
	buf = le.AppendUint32(buf, uint32(answerFixed+answerEach*int(a.count)+payloads))
	buf = le.AppendUint32(append(buf, byte(wire.Answer)), a.count)
	return append(append(append(buf, a.refs...), a.codes...), a.lengths...)
}

// closeTo appends the frame, if there is one, and begins another.
func (a *answers) closeTo(buf []byte) []byte {
	if a.count == 0 {
		return buf
	}
	buf = append(a.appendHead(buf, len(a.payloads)), a.payloads...)
	if cap(a.payloads) > keptOutbox {
		a.payloads = nil
	}
	a.count, a.refs, a.codes, a.lengths, a.payloads = 0, a.refs[:0], a.codes[:0], a.lengths[:0], a.payloads[:0]
	return buf
}

// burst is what the writer took from an outbox.
type burst struct {
	pieces net.Buffers
	tail   []byte
	pieced bool
	size   int
}

// take gives all that waits to the writer, and the writer's last buffer back.
func (o *outbox) take(b *burst) {
	o.tail = o.answers.closeTo(o.tail)
	spare := o.spare
	o.spare = nil
	*b = burst{pieces: o.pieces, tail: o.tail, pieced: o.pieced, size: o.waiting}
	o.pieces, o.tail, o.pieced, o.waiting = nil, spare, false, 0
}

// wrote says that the writer is through with a burst.
func (o *outbox) wrote(b *burst) {
	o.size -= b.size
	if !b.pieced && cap(b.tail) <= keptOutbox {
		o.spare = b.tail[:0]
	}
	*b = burst{}
}

// writeTo writes the burst. Its client must take each writeChunk of it within
// linkTimeout: slow is allowed, stuck is not.
func (b *burst) writeTo(conn net.Conn) error {
	if len(b.pieces) == 0 && len(b.tail) <= writeChunk {
		_ = conn.SetWriteDeadline(time.Now().Add(linkTimeout)) // a connection that is gone is seen when it is written to
		_, err := conn.Write(b.tail)
		return err
	}
	rest := b.pieces
	if len(b.tail) > 0 {
		rest = append(rest, b.tail)
	}
	for len(rest) > 0 {
		part := cutChunk(&rest)
		_ = conn.SetWriteDeadline(time.Now().Add(linkTimeout))
		if _, err := part.WriteTo(conn); err != nil {
			return err
		}
	}
	return nil
}

// cutChunk cuts writeChunk bytes off, or all if there are fewer.
func cutChunk(rest *net.Buffers) (part net.Buffers) {
	for room := writeChunk; room > 0 && len(*rest) > 0; {
		first := (*rest)[0]
		n := min(room, len(first))
		part = append(part, first[:n])
		if room -= n; n < len(first) {
			(*rest)[0] = first[n:]
			return part
		}
		(*rest)[0] = nil
		*rest = (*rest)[1:]
	}
	return part
}

// write sends what the outbox holds until the link ends.
func (l *link) write() {
	var b burst
	for range l.wake {
		more, finished := l.takeBurst(&b)
		for ; more; more, finished = l.takeBurst(&b) {
			if err := b.writeTo(l.conn); err != nil {
				l.logStuck(err)
				l.cut()
				return
			}
			_ = l.conn.SetWriteDeadline(time.Time{}) // TLS may have to write by itself
			l.wrote(&b)
		}
		if finished {
			l.hangUp()
			return
		}
	}
}

// logStuck says why a link is cut that could not be written to.
func (l *link) logStuck(err error) {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		l.log.Warn("link closed: the client takes no answers", "client", l.conn.RemoteAddr(), "caller", l.who, "after", linkTimeout)
		return
	}
	l.log.Debug("writing to a link failed", "client", l.conn.RemoteAddr(), "error", err)
}

func (l *link) takeBurst(b *burst) (more, finished bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.gone {
		return false, true
	}
	if l.out.empty() {
		l.out.closed = l.finished()
		return false, l.out.closed
	}
	l.out.take(b)
	return true, false
}

func (l *link) wrote(b *burst) {
	l.mu.Lock()
	full := l.out.size > maxOutbox
	l.out.wrote(b)
	if full && l.out.size <= maxOutbox {
		l.room.Broadcast()
	}
	l.mu.Unlock()
}

// hangUp ends the sending side of a drained link; the client's hanging up, or
// a short wait for it, ends the rest.
func (l *link) hangUp() {
	if half, ok := l.conn.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite() // a lost connection is the reader's to notice
	}
	_ = l.conn.SetReadDeadline(time.Now().Add(linger))
}

// errorPayload writes an error as docs/protocol.md wants it for an api query.
func errorPayload(err error) []byte { return problemPayload(serving.Describe(err)) }

func problemPayload(p serving.Problem) []byte {
	object := wire.ErrorObject{Type: string(p.Code), Message: p.Message, Traceback: p.Traceback, Status: p.Status}
	if len(p.Header) > 0 {
		object.Headers = make(map[string]string, len(p.Header))
		for name := range p.Header {
			object.Headers[name] = p.Header.Get(name)
		}
	}
	raw, err := json.Marshal(object)
	if err != nil { // a struct of texts always can be
		panic(err)
	}
	payload := make([]byte, 0, 4+len(raw)+len(p.Pickle))
	payload = binary.LittleEndian.AppendUint32(payload, uint32(len(raw)))
	return append(append(payload, raw...), p.Pickle...)
}
