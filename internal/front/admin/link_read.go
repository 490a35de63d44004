package admin

import (
	"bufio"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"time"
	"unicode/utf8"

	"github.com/shoalserve/shoal/batch"
	"github.com/shoalserve/shoal/internal/auth"
	"github.com/shoalserve/shoal/internal/serving"
	"github.com/shoalserve/shoal/internal/wire"
)

const (
	linkReadBuffer = 64 << 10
	// maxNames bounds the names that a link remembers.
	maxNames = 256
	// queryFixed is the length of a QUERY body's fields of fixed length, and
	// queryEach that of the fields that each of its queries has.
	queryFixed, queryEach = 21, 12
	// maxTogether is the most queries that one QUERY frame may hold. They share
	// memory, which the last one to be answered holds.
	maxTogether = 1024
)

// frameError reports a frame that breaks the protocol. The link is closed.
type frameError struct{ reason string }

func (e *frameError) Error() string { return e.reason }

func malformed(format string, args ...any) error {
	return &frameError{fmt.Sprintf(format, args...)}
}

// read serves frames until the connection ends or one is malformed.
func (l *link) read() error {
	for {
		kind, body, err := readFrame(l.in, l.endBurst, l.hold)
		if err != nil {
			return err
		}
		arrived := time.Now()
		if !l.beginBurst() {
			return net.ErrClosed
		}
		switch kind {
		case wire.Query:
			err = l.readQuery(body, arrived)
		case wire.Cancel:
			err = l.readCancel(body)
		default:
			err = malformed("a client does not send frames of kind %d", kind)
		}
		l.giveBack() // the queues have counted it
		if err != nil {
			return err
		}
	}
}

// hold counts memory of a large frame that is arriving; giveBack counts it no more.
func (l *link) hold(n int) error {
	err := l.front.arrivingOf(l.who).Take(n)
	if err == nil {
		l.held += n
	} else {
		l.front.opts.Refused("inflight_bytes")
	}
	return err
}

func (l *link) giveBack() {
	l.front.arrivingOf(l.who).Give(l.held)
	l.held = 0
}

// beginBurst and endBurst enclose the time in which the reader works through
// frames that have arrived already. Answers that are finished meanwhile go out
// in one write at the end of it, or earlier when there are many.
//
// No burst begins while the client does not take its answers: the reader waits
// for room, and the client's queries stay in the kernel. beginBurst reports
// false when the link is gone.
func (l *link) beginBurst() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.out.size > maxOutbox && !l.gone {
		l.burst = false
		l.wakeWriter() // does not block
		l.room.Wait()
	}
	l.burst = true
	return !l.gone
}

func (l *link) endBurst() {
	l.mu.Lock()
	wake := l.burst && !l.out.empty()
	l.burst = false
	l.mu.Unlock()
	if wake {
		l.wakeWriter()
	}
}

// readFrame reads one frame into memory of its own. beforeBlocking is called
// before it may have to wait for the client.
// hold is as in [wire.ReadBytes].
func readFrame(in *bufio.Reader, beforeBlocking func(), hold func(more int) error) (wire.Kind, []byte, error) {
	if in.Buffered() < wire.HeaderSize {
		beforeBlocking()
	}
	header, err := in.Peek(wire.HeaderSize)
	if err != nil {
		if len(header) > 0 {
			return 0, nil, malformed("the connection ended within a frame's header")
		}
		return 0, nil, err
	}
	length, kind := binary.LittleEndian.Uint32(header), wire.Kind(header[4])
	if length < 1 || length > wire.MaxFrame {
		return 0, nil, malformed("a frame of %d bytes; it must have 1 to %d", length, wire.MaxFrame)
	}
	if _, err := in.Discard(wire.HeaderSize); err != nil { // they were peeked at
		return 0, nil, err
	}
	size := int(length - 1)
	if in.Buffered() < size {
		beforeBlocking()
	}
	body, read, err := wire.ReadBytes(in, size, hold)
	if _, full := errors.AsType[*serving.Error](err); err != nil && !full {
		err = malformed("the connection ended within a frame: %d of %d bytes came: %v", read, size, err)
	}
	return kind, body, err
}

// queryFrame is a QUERY. Its parts alias the frame.
type queryFrame struct {
	timeout                                  time.Duration // 0: the backend's default
	priority                                 int
	endpoint, method, shardKey, caller, head []byte // of all its queries
	refs, lengths, payloads                  []byte
}

func (f *queryFrame) count() int { return len(f.refs) / 8 }

// next cuts the next query off the frame.
func (f *queryFrame) next() (ref uint64, payload []byte) {
	le := binary.LittleEndian
	ref = le.Uint64(f.refs)
	n := le.Uint32(f.lengths)
	payload = f.payloads[:n:n]
	f.refs, f.lengths, f.payloads = f.refs[8:], f.lengths[4:], f.payloads[n:]
	return ref, payload
}

func parseQuery(body []byte) (queryFrame, error) {
	if len(body) < queryFixed {
		return queryFrame{}, malformed("a QUERY of %d bytes; it has at least %d", len(body), queryFixed)
	}
	le := binary.LittleEndian
	count := int(le.Uint32(body))
	if count < 1 || count > maxTogether {
		return queryFrame{}, malformed("a QUERY frame of %d queries; it must have 1 to %d", count, maxTogether)
	}
	q := queryFrame{timeout: time.Duration(le.Uint32(body[4:])) * time.Millisecond, priority: int(int8(body[20]))}
	lengths := [...]int{
		int(le.Uint16(body[8:])), int(le.Uint16(body[10:])), int(le.Uint16(body[12:])), int(le.Uint16(body[14:])), int(le.Uint32(body[16:])),
		8 * count, 4 * count,
	}
	rest := body[queryFixed:]
	for i, part := range []*[]byte{&q.endpoint, &q.method, &q.shardKey, &q.caller, &q.head, &q.refs, &q.lengths} {
		n := lengths[i]
		if n > len(rest) {
			return queryFrame{}, malformed("a QUERY of %d bytes cannot hold the parts that it announces", len(body))
		}
		*part, rest = rest[:n:n], rest[n:]
	}
	q.payloads = rest
	total := uint64(0)
	for at := 0; at < len(q.lengths); at += 4 {
		total += uint64(le.Uint32(q.lengths[at:]))
	}
	if total != uint64(len(rest)) {
		return queryFrame{}, malformed("a QUERY frame with %d bytes of payloads; their lengths say %d", len(rest), total)
	}
	if !utf8.Valid(q.endpoint) || !utf8.Valid(q.method) || !utf8.Valid(q.shardKey) || !utf8.Valid(q.caller) {
		return queryFrame{}, malformed("a QUERY with a name that is not UTF-8")
	}
	return q, nil
}

// check refuses terms that no query can have.
func (f *queryFrame) check() error {
	if err := serving.CheckCaller(string(f.caller)); err != nil {
		return err
	}
	return serving.CheckPriority(f.priority)
}

func parseCancel(body []byte) (ref uint64, err error) {
	if len(body) != 8 {
		return 0, malformed("a CANCEL of %d bytes; it has 8", len(body))
	}
	return binary.LittleEndian.Uint64(body), nil
}

// name returns a name as a string. The same few come again and again, so the
// link remembers them; a client that sends many costs no more than a new map.
func (l *link) name(raw []byte) string {
	if known, ok := l.names[string(raw)]; ok { // does not allocate
		return known
	}
	if len(l.names) >= maxNames {
		clear(l.names)
	}
	name := string(raw)
	l.names[name] = name
	return name
}

// admit returns the endpoint that a frame's queries are for, if the link's caller
// may still ask it, and in this way.
func (l *link) admit(f *queryFrame, endpoint string, now time.Time) (*serving.Endpoint, error) {
	var err error
	if l.who.Ended(now) {
		err = auth.Expired()
	} else {
		err = l.who.AllowQuery(endpoint)
	}
	if denial, ok := errors.AsType[*auth.Denial](err); ok {
		l.front.opts.Denied(denial.Reason)
		return nil, err
	}
	found, err := l.front.opts.Registry.Endpoint(endpoint)
	if err != nil {
		return nil, err
	}
	if f.head, err = l.head(f.head); err != nil {
		return nil, err
	}
	return found, f.check()
}

func (l *link) readQuery(body []byte, arrived time.Time) error {
	frame, err := parseQuery(body)
	if err != nil {
		return err
	}
	name := l.name(frame.endpoint)
	endpoint, err := l.admit(&frame, name, arrived)
	if err != nil {
		for frame.count() > 0 {
			ref, _ := frame.next()
			l.refuse(ref, err)
		}
		return nil
	}
	t := &together{link: l, endpoint: name, limit: limit{arrived, frame.timeout}, queries: make([]query, frame.count())}
	method, shardKey, caller := l.name(frame.method), string(frame.shardKey), cmp.Or(callerOf(l.who), l.name(frame.caller))
	for i := range t.queries {
		q := &t.queries[i]
		ref, payload := frame.next()
		q.together, q.ref = t, ref
		q.call = serving.Call{
			Origin: batch.API, Args: serving.Args{Head: frame.head, Payload: payload}, Method: method,
			ShardKey: shardKey, Context: q, Done: finished,
			Caller: caller, Priority: frame.priority,
		}
	}
	return t.submit(endpoint)
}

func (l *link) readCancel(body []byte) error {
	ref, err := parseCancel(body)
	if err != nil {
		return err
	}
	l.mu.Lock()
	q := l.pending[ref]
	l.mu.Unlock()
	if q != nil { // else its answer and the CANCEL crossed
		q.call.Withdraw()
		q.fail(errCanceled)
	}
	return nil
}

var errCanceled = serving.Errorf(serving.Canceled, "the query was canceled by its caller")
