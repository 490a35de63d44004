// Package wire reads and writes the frames that connect Python and the server.
// docs/protocol.md describes them; shoal/_wire.py is the other side.
package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Kind says what a frame is.
type Kind uint8

// The kinds of the worker protocol and of the link protocol.
const (
	Init   Kind = 1
	Ready  Kind = 2
	Failed Kind = 3
	Batch  Kind = 4
	Result Kind = 5
	Error  Kind = 6

	Arrays  Kind = 7
	Answers Kind = 8
	Shared  Kind = 9
	Keep    Kind = 10
	Free    Kind = 11

	Ping Kind = 14
	Pong Kind = 15

	Query   Kind = 16
	Answer  Kind = 17
	Cancel  Kind = 18
	Goodbye Kind = 19
)

// Version is the version of both protocols.
const Version = 2

// ErrorCode is the code of an answer that is an error payload; the others are
// serving.Format.
const ErrorCode = 5

// MaxFrame is the most bytes that a frame may have.
const MaxFrame = 1 << 30

// ErrTooLong reports a frame longer than MaxFrame.
var ErrTooLong = errors.New("frame is too long")

// HeaderSize is the size of a frame's length and kind.
const HeaderSize = 5

// Begin appends the header of a frame whose length is not known yet.
func Begin(buf []byte, kind Kind) []byte {
	return append(buf, 0, 0, 0, 0, byte(kind))
}

// End sets the length of the frame that begins at start and ends with buf,
// plus extra bytes that will be written after it.
func End(buf []byte, start, extra int) error {
	n := len(buf) - start - 4 + extra
	if n > MaxFrame {
		return fmt.Errorf("%w: %d bytes, at most %d are allowed", ErrTooLong, n, MaxFrame)
	}
	binary.LittleEndian.PutUint32(buf[start:], uint32(n))
	return nil
}

// believed is the size up to which a length is trusted before its bytes are there.
// What is longer gets room as it comes: to state a length takes no memory.
const believed = 1 << 20

// ReadBytes reads exactly size bytes into memory of their own. hold, if given, is
// asked before memory beyond the first MiB is taken, with how much more that is; its
// error ends the reading. read is how many bytes came.
func ReadBytes(r io.Reader, size int, hold func(more int) error) (body []byte, read int, err error) {
	body = make([]byte, min(size, believed))
	for {
		n, err := io.ReadFull(r, body[read:])
		if read += n; err != nil {
			return nil, read, noEOF(err)
		}
		if read == size {
			return body, read, nil
		}
		room := min(size, 4*len(body))
		if hold != nil {
			if err := hold(room - len(body)); err != nil {
				return nil, read, err
			}
		}
		grown := make([]byte, room)
		copy(grown, body)
		body = grown
	}
}

// Read reads one frame. The body is freshly allocated and the caller's to keep.
func Read(r io.Reader) (Kind, []byte, error) {
	var header [HeaderSize]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return 0, nil, err // io.EOF between frames is a clean end
	}
	n := binary.LittleEndian.Uint32(header[:])
	if n < 1 || n > MaxFrame {
		return 0, nil, fmt.Errorf("%w: %d bytes, at most %d are allowed", ErrTooLong, n, MaxFrame)
	}
	body, _, err := ReadBytes(r, int(n-1), nil)
	if err != nil {
		return 0, nil, fmt.Errorf("reading a frame of kind %d: %w", header[4], err)
	}
	return Kind(header[4]), body, nil
}

// noEOF turns an end within a frame into what it is.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// ErrorObject is the JSON object of an error payload.
type ErrorObject struct {
	Type      string            `json:"type"`
	Message   string            `json:"message"`
	Traceback string            `json:"traceback,omitempty"`
	Status    int               `json:"status,omitempty"`
	Headers   map[string]string `json:"headers,omitempty"`
}
