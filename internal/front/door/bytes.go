// Package door bounds what strangers can hold at a front before anything of
// theirs is admitted: connections, and bytes of requests that are still arriving.
package door

import (
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

// NewBytes returns a bound.
func NewBytes(limit int64) *Bytes { return &Bytes{limit: limit} }

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
