package sim

import (
	"container/heap"
	"time"

	"github.com/shoalserve/shoal/batch"
)

// epoch is when every simulation begins.
var epoch = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

// Clock is virtual time: it jumps from event to event. Events of one moment
// happen in the order in which they were planned. It implements [batch.Clock].
type Clock struct {
	now    time.Time
	events events
	seq    uint64
}

// NewClock returns a clock at its beginning.
func NewClock() *Clock { return &Clock{now: epoch} }

// Now returns the virtual time.
func (c *Clock) Now() time.Time { return c.now }

// Elapsed returns the virtual time since the beginning.
func (c *Clock) Elapsed() time.Duration { return c.now.Sub(epoch) }

// AfterFunc plans a call of f.
func (c *Clock) AfterFunc(d time.Duration, f func()) batch.Timer {
	e := &event{at: c.now.Add(max(0, d)), seq: c.seq, f: f}
	c.seq++
	heap.Push(&c.events, e)
	return e
}

// Run lets events happen until d has passed since the beginning.
func (c *Clock) Run(d time.Duration) {
	end := epoch.Add(d)
	for len(c.events) > 0 && !c.events[0].at.After(end) {
		e := heap.Pop(&c.events).(*event)
		if e.f == nil {
			continue
		}
		c.now = e.at
		f := e.f
		e.f = nil
		f()
	}
	c.now = end
}

type event struct {
	at  time.Time
	seq uint64
	f   func() // nil once it was called or stopped
}

// Stop prevents the event.
func (e *event) Stop() bool {
	pending := e.f != nil
	e.f = nil
	return pending
}

// events is a heap, the earliest event first.
type events []*event

func (h events) Len() int { return len(h) }
func (h events) Less(i, j int) bool {
	if !h[i].at.Equal(h[j].at) {
		return h[i].at.Before(h[j].at)
	}
	return h[i].seq < h[j].seq
}
func (h events) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *events) Push(x any)   { *h = append(*h, x.(*event)) }
func (h *events) Pop() any {
	last := len(*h) - 1
	e := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	return e
}
