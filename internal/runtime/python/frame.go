package python

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"slices"

	"github.com/shoalserve/shoal/batch"
	"github.com/shoalserve/shoal/internal/tensor"
	"github.com/shoalserve/shoal/internal/wire"
)

const (
	// large is the size from which a payload is written from where it is and not
	// copied into the frame.
	large = 32 << 10
	// sharedFrom is the size from which frames and answers go through shared
	// memory, so that writing never waits for a worker that does not read.
	sharedFrom = 64 << 10
	// keptBuffer is the most that a writer keeps from one frame for the next.
	keptBuffer = 1 << 20
	// sharedHead is the size of a SHARED frame before the frame that it holds.
	sharedHead = wire.HeaderSize + 8 + 1 + 4*8
	// frameStart is where in a writer's buffer a frame begins: such that its kind
	// comes right after the head of a SHARED frame.
	frameStart = sharedHead - wire.HeaderSize + 1 // a frame's header ends with its kind
)

// frameWriter lays out batches as frames and writes them; it reuses its buffers.
// After prepare it is taken until send.
type frameWriter struct {
	arena   *arena
	methods map[string]arrayMethod

	buf   []byte // a SHARED frame's head, then the frame, or all of it but what is loose
	start int    // where in buf begins what is to be written
	cuts  []cut
	loose int // bytes of the large payloads
	rows  tensor.Collation
	block int         // bytes of the rows' arrays, which end the frame
	parts net.Buffers // what is to be written, where there are large payloads
}

// cut is a place in buf where a large payload belongs.
type cut struct {
	at      int
	payload []byte
}

// prepare lays a batch out and returns how many bytes send will write. room is
// the size that its answer may be expected to have. An error
// concerns this batch alone, which is too large.
func (f *frameWriter) prepare(b *callBatch, room int) (size int, err error) {
	f.buf = slices.Grow(f.buf[:0], frameStart)[:frameStart]
	if b.Queries[0].In.Row() != nil { // and so have all: rows have batch keys of their own
		err = f.layOutRows(b)
	} else {
		err = f.layOut(b)
	}
	if err == nil {
		err = wire.End(f.buf, frameStart, f.loose+f.block)
	}
	if err != nil {
		f.forget()
		return 0, err
	}
	f.start = frameStart
	if !f.share(b, room) {
		f.fillBlock()
	}
	return len(f.buf) - f.start + f.loose, nil
}

// fillBlock appends the arrays of rows.
func (f *frameWriter) fillBlock() {
	if f.block > 0 {
		end := len(f.buf)
		f.buf = slices.Grow(f.buf, f.block)[:end+f.block]
		f.rows.Fill(f.buf[end:])
	}
	f.rows.Reset()
	f.block = 0
}

// send writes what was prepared and tells how many bytes were written.
func (f *frameWriter) send(w io.Writer) (n int64, err error) {
	if len(f.cuts) == 0 {
		var written int
		written, err = w.Write(f.buf[f.start:])
		n = int64(written)
	} else {
		n, err = f.pieces().WriteTo(w)
	}
	f.forget()
	return n, err
}

// forget lets go of what belongs to a batch.
func (f *frameWriter) forget() {
	if cap(f.buf) > keptBuffer {
		f.buf = nil
	}
	clear(f.parts)
	f.parts = f.parts[:0]
	f.forgetLoose()
}

func (f *frameWriter) forgetLoose() {
	clear(f.cuts)
	f.cuts, f.loose = f.cuts[:0], 0
	f.rows.Reset()
	f.block = 0
}

// share puts a large frame into shared memory, and gets room there for a large
// answer. It reports true if that took the arrays of rows along.
func (f *frameWriter) share(b *callBatch, room int) bool {
	frame := len(f.buf) - sharedHead + f.loose + f.block
	if frame < sharedFrom {
		frame = 0
	}
	if room < sharedFrom {
		room = 0
	}
	if frame+room == 0 {
		return false
	}
	r, ok := f.arena.take(b.ID, frame, room)
	if !ok {
		return false
	}
	if frame > 0 {
		f.copyTo(f.arena.bytes(span{r.offset, frame}))
	} else {
		f.fillBlock()
	}
	f.putSharedHead(b, r)
	return true
}

// putSharedHead makes what is to be written a SHARED frame.
func (f *frameWriter) putSharedHead(b *callBatch, r region) {
	head := wire.Begin(f.buf[:0], wire.Shared)
	head = binary.LittleEndian.AppendUint64(head, b.ID)
	head = append(head, flags(b))
	for _, n := range []int{r.offset, r.frame, r.room.offset, r.room.length} {
		head = binary.LittleEndian.AppendUint64(head, uint64(n))
	}
	binary.LittleEndian.PutUint32(head, uint32(len(f.buf)-4+f.loose))
	f.start = 0
}

// copyTo writes the frame, from its kind on, to memory of its size.
func (f *frameWriter) copyTo(dst []byte) {
	from, at := sharedHead, 0
	for _, c := range f.cuts {
		at += copy(dst[at:], f.buf[from:c.at])
		at += copy(dst[at:], c.payload)
		from = c.at
	}
	at += copy(dst[at:], f.buf[from:])
	if f.block > 0 {
		f.rows.Fill(dst[at:])
	}
	f.buf = f.buf[:sharedHead]
	f.forgetLoose()
}

// layOut builds a BATCH frame.
func (f *frameWriter) layOut(b *callBatch) error {
	if err := f.begin(wire.Batch, b, 0); err != nil {
		return err
	}
	lengths := len(f.buf)
	f.buf = append(f.buf, make([]byte, 8*len(b.Queries))...)
	f.buf = append(f.buf, b.Queries[0].In.Method...)
	f.addRequests(b, lengths)
	return nil
}

// begin appends the head that frames of batches have in common.
func (f *frameWriter) begin(kind wire.Kind, b *callBatch, more byte) error {
	method := b.Queries[0].In.Method // part of the batch key: the same for all
	if len(method) > 0xffff {
		return fmt.Errorf("%w: method name of %d bytes", wire.ErrTooLong, len(method))
	}
	buf := wire.Begin(f.buf, kind)
	buf = append(buf, originCode(b.Origin), flags(b)|more)
	buf = binary.LittleEndian.AppendUint16(buf, uint16(len(method)))
	buf = binary.LittleEndian.AppendUint32(buf, uint32(len(b.Queries)))
	f.buf = binary.LittleEndian.AppendUint64(buf, b.ID)
	return nil
}

// addRequests appends heads and payloads, and puts their lengths where there is
// room for them.
func (f *frameWriter) addRequests(b *callBatch, lengths int) {
	buf := f.buf
	for i, q := range b.Queries {
		c, start := q.In, len(buf)
		payload := c.Args.Payload
		if c.Request != nil {
			buf = c.Request.AppendHead(buf)
			payload = c.Request.Body
		} else {
			buf = append(buf, c.Args.Head...)
		}
		at := lengths + 8*i
		binary.LittleEndian.PutUint32(buf[at:], uint32(len(buf)-start))
		binary.LittleEndian.PutUint32(buf[at+4:], uint32(len(payload)))
		if len(payload) < large {
			buf = append(buf, payload...)
		} else {
			f.cuts = append(f.cuts, cut{len(buf), payload})
			f.loose += len(payload)
		}
	}
	f.buf = buf
}

// pieces returns the frame as the kernel gathers it.
func (f *frameWriter) pieces() *net.Buffers {
	from := f.start
	f.parts = f.parts[:0]
	for _, c := range f.cuts {
		if c.at > from {
			f.parts = append(f.parts, f.buf[from:c.at])
		}
		f.parts = append(f.parts, c.payload)
		from = c.at
	}
	if from < len(f.buf) {
		f.parts = append(f.parts, f.buf[from:])
	}
	parts := f.parts // WriteTo consumes the slice it is called on
	return &parts
}

// mustClaim is the flag of a batch that the worker must claim before it begins.
const mustClaim = 1

func flags(b *callBatch) byte {
	if b.Ahead {
		return mustClaim
	}
	return 0
}

func originCode(o batch.Origin) byte {
	if o == batch.Web {
		return 1
	}
	return 2
}
