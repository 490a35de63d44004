package python

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"

	"github.com/shoalserve/shoal/batch"
	"github.com/shoalserve/shoal/internal/serving"
	"github.com/shoalserve/shoal/internal/wire"
)

// frameWriter writes BATCH frames; it reuses its buffers.
type frameWriter struct {
	buf   []byte      // the frame, or all of it but large payloads
	parts net.Buffers // the frame in pieces, when there are large payloads
	cuts  []cut
}

// cut is a place in buf where a large payload belongs.
type cut struct {
	at      int
	payload []byte
}

// large is the size from which a payload is written from where it is and not
// copied into the frame.
const large = 32 << 10

// keptBuffer is the most that a writer keeps from one frame for the next.
const keptBuffer = 1 << 20

// write writes one batch. With wire.ErrTooLong nothing was written.
func (f *frameWriter) write(w io.Writer, b *callBatch) error {
	loose, err := f.layOut(b)
	if err != nil {
		return err
	}
	if err := wire.End(f.buf, 0, loose); err != nil {
		return err
	}
	if len(f.cuts) == 0 {
		_, err = w.Write(f.buf)
	} else {
		_, err = f.pieces().WriteTo(w)
	}
	if cap(f.buf) > keptBuffer {
		f.buf = nil
	}
	clear(f.cuts) // let go of the payloads
	f.cuts, f.parts = f.cuts[:0], f.parts[:0]
	return err
}

// layOut builds the frame and returns the bytes of the large payloads.
func (f *frameWriter) layOut(b *callBatch) (loose int, err error) {
	method := b.Queries[0].In.Method // the batch key: the same for all
	if len(method) > 0xffff {
		return 0, fmt.Errorf("%w: method name of %d bytes", wire.ErrTooLong, len(method))
	}
	buf := wire.Begin(f.buf[:0], wire.Batch)
	buf = append(buf, originCode(b.Origin), flags(b))
	buf = binary.LittleEndian.AppendUint16(buf, uint16(len(method)))
	buf = binary.LittleEndian.AppendUint32(buf, uint32(len(b.Queries)))
	buf = binary.LittleEndian.AppendUint64(buf, b.ID)
	lengths := len(buf)
	buf = append(buf, make([]byte, 8*len(b.Queries))...)
	buf = append(buf, method...)
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
			loose += len(payload)
		}
	}
	f.buf = buf
	return loose, nil
}

// pieces returns the frame as the kernel gathers it.
func (f *frameWriter) pieces() *net.Buffers {
	from := 0
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

func newReader(r io.Reader) io.Reader { return bufio.NewReaderSize(r, 64<<10) }

// result is a parsed RESULT frame. Its answers alias the frame.
type result struct {
	id      uint64
	codes   []byte
	ends    []int // where each payload ends in data
	data    []byte
	lengths []byte
}

func (r *result) count() int { return len(r.codes) }

// parseResult checks a RESULT frame's lengths; its payloads are read one by one.
func parseResult(body []byte) (*result, error) {
	if len(body) < 12 {
		return nil, fmt.Errorf("RESULT frame of %d bytes is too short", len(body))
	}
	r := &result{id: binary.LittleEndian.Uint64(body)}
	n := int(binary.LittleEndian.Uint32(body[8:]))
	body = body[12:]
	if len(body)/5 < n {
		return nil, fmt.Errorf("RESULT frame has %d answers but only %d bytes for their codes and lengths", n, len(body))
	}
	r.codes, r.lengths, r.data = body[:n], body[n:5*n], body[5*n:]
	r.ends = make([]int, n)
	end := 0
	for i := range n {
		end += int(binary.LittleEndian.Uint32(r.lengths[4*i:]))
		r.ends[i] = end
	}
	if end != len(r.data) {
		return nil, fmt.Errorf("RESULT frame has %d bytes of answers, their lengths say %d", len(r.data), end)
	}
	return r, nil
}

// answer reads the payload of query i.
func (r *result) answer(i int, backend string) (serving.Response, error) {
	start := 0
	if i > 0 {
		start = r.ends[i-1]
	}
	payload := r.data[start:r.ends[i]:r.ends[i]]
	switch format := serving.Format(r.codes[i]); format {
	case serving.JSON, serving.Text, serving.Bytes, serving.Pickle:
		return serving.Response{Format: format, Body: payload}, nil
	case serving.Full:
		return parseFull(payload, backend)
	case wire.ErrorCode:
		failure, err := parseFailure(payload, backend)
		if err != nil {
			return serving.Response{}, protocolFailure(backend, err)
		}
		return serving.Response{}, failure
	default:
		return serving.Response{}, protocolFailure(backend, fmt.Errorf("unknown answer code %d", format))
	}
}

// protocolFailure is the error of one query whose answer cannot be read.
func protocolFailure(backend string, err error) error {
	return serving.Errorf(serving.Internal, "backend %q: unreadable answer from the worker: %v", backend, err)
}

func parseFull(payload []byte, backend string) (serving.Response, error) {
	object, body, err := prefixed(payload)
	if err != nil {
		return serving.Response{}, protocolFailure(backend, err)
	}
	var head struct {
		Status  int         `json:"status"`
		Headers [][2]string `json:"headers"`
	}
	if err := json.Unmarshal(object, &head); err != nil {
		return serving.Response{}, protocolFailure(backend, err)
	}
	response := serving.Response{Format: serving.Full, Status: head.Status, Header: make(http.Header), Body: body}
	for _, h := range head.Headers {
		response.Header.Add(h[0], h[1])
	}
	return response, nil
}

// parseError reads an ERROR frame.
func parseError(body []byte, backend string) (id uint64, failure *serving.ModelError, err error) {
	if len(body) < 8 {
		return 0, nil, fmt.Errorf("ERROR frame of %d bytes is too short", len(body))
	}
	failure, err = parseFailure(body[8:], backend)
	return binary.LittleEndian.Uint64(body), failure, err
}

// parseFailure reads an error payload.
func parseFailure(payload []byte, backend string) (*serving.ModelError, error) {
	object, pickle, err := prefixed(payload)
	if err != nil {
		return nil, err
	}
	var e wire.ErrorObject
	if err := json.Unmarshal(object, &e); err != nil {
		return nil, fmt.Errorf("reading an error object: %w", err)
	}
	failure := &serving.ModelError{
		Backend: backend, Type: e.Type, Message: e.Message, Traceback: e.Traceback, Status: e.Status, Pickle: pickle,
	}
	if failure.Status < 400 || failure.Status > 599 {
		failure.Status = http.StatusInternalServerError
	}
	if len(e.Headers) > 0 {
		failure.Header = make(http.Header)
		for name, value := range e.Headers {
			failure.Header.Set(name, value)
		}
	}
	return failure, nil
}

// prefixed cuts a payload into the object that its first u32 measures, and the rest.
func prefixed(payload []byte) (object, rest []byte, err error) {
	if len(payload) < 4 {
		return nil, nil, fmt.Errorf("payload of %d bytes is too short", len(payload))
	}
	n := binary.LittleEndian.Uint32(payload)
	if uint64(n) > uint64(len(payload)-4) {
		return nil, nil, fmt.Errorf("payload of %d bytes holds no object of %d bytes", len(payload), n)
	}
	return payload[4 : 4+n], payload[4+n:], nil
}
