// Package door bounds what strangers can hold at a front before anything of
// theirs is admitted: connections, and bytes of requests that are still arriving.
package door

import (
	"cmp"
	"io"
	"sync/atomic"
	"time"

	"github.com/shoalserve/shoal/internal/serving"
)

// Bytes bounds the memory of requests that are still arriving. Those that are
// whole are the queues' to count.
type Bytes struct {
	limit int64
	held  atomic.Int64
}

// DefaultBytes is the bound of a server that is given none.
const DefaultBytes = 1 << 30

// NewBytes returns a bound; 0 stands for DefaultBytes.
func NewBytes(limit int64) *Bytes { return &Bytes{limit: cmp.Or(limit, DefaultBytes)} }

// Take counts n bytes more. If that is too many it counts nothing and returns a
// *serving.Error with the code QueueFull.
func (b *Bytes) Take(n int) error {
	if held := b.held.Add(int64(n)); held > b.limit {
		b.held.Add(-int64(n))
		return &serving.Error{
			Code: serving.QueueFull, RetryAfter: time.Second,
			Message: "the requests that are arriving hold as many bytes as max_inflight_bytes allows; try again later",
		}
	}
	return nil
}

// Give counts n bytes less.
func (b *Bytes) Give(n int) {
	if n != 0 {
		b.held.Add(-int64(n))
	}
}

// Held is how many bytes are counted at the moment.
func (b *Bytes) Held() int64 { return b.held.Load() }

// Read reads up to the end, or n bytes, into memory that grows from first on as they
// come. All of that memory is counted; the caller gives held back, also after an
// error. A full bound is an error as Take returns it.
func (b *Bytes) Read(from io.Reader, n, first int) (body []byte, held int, err error) {
	for len(body) < n {
		if len(body) == cap(body) {
			room := RoomFor(len(body), n, first)
			if err := b.Take(room - held); err != nil {
				return body, held, err
			}
			held, body = room, Grown(body, room)
		}
		more, err := from.Read(body[len(body):cap(body)])
		if body = body[:len(body)+more]; err == io.EOF {
			break
		} else if err != nil {
			return body, held, err
		}
	}
	return body, held, nil
}

// RoomFor is how much room a body of n bytes in all gets, of which some have come, in
// proportion to these: to announce a body takes no memory. first is what it gets
// before anything has come.
func RoomFor(come, n, first int) int { return min(n, max(first, 4*come)) }

// Grown returns a body in memory of its own with more room.
func Grown(body []byte, room int) []byte {
	more := make([]byte, len(body), room)
	copy(more, body)
	return more
}
