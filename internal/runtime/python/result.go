package python

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net/http"

	"golang.org/x/net/http/httpguts"

	"github.com/shoalserve/shoal/internal/serving"
	"github.com/shoalserve/shoal/internal/wire"
)

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
	if head.Status < 200 || head.Status > 599 {
		return serving.Response{}, serving.Errorf(serving.Internal, "backend %q: the model's response has the status %d; one is from 200 to 599", backend, head.Status)
	}
	response := serving.Response{Format: serving.Full, Status: head.Status, Header: make(http.Header), Body: body}
	for _, h := range head.Headers {
		if !httpguts.ValidHeaderFieldName(h[0]) || !httpguts.ValidHeaderFieldValue(h[1]) {
			return serving.Response{}, serving.Errorf(serving.Internal, "backend %q: the model's response has the header %q: %q, which is none that an answer can have", backend, h[0], h[1])
		}
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
