package rest

import "container/heap"

// deadlines is a heap of connections by when they are to be looked at. A deadline
// that moves away, as it does with each request, leaves its connection where it is:
// whoever looks too early looks again later.
type deadlines []*conn

// Len implements sort.Interface.
func (d deadlines) Len() int { return len(d) }

// Less implements sort.Interface.
func (d deadlines) Less(i, j int) bool { return d[i].due < d[j].due }

// Swap implements sort.Interface.
func (d deadlines) Swap(i, j int) {
	d[i], d[j] = d[j], d[i]
	d[i].place, d[j].place = int32(i), int32(j)
}

// Push implements heap.Interface.
func (d *deadlines) Push(x any) {
	c := x.(*conn)
	c.place = int32(len(*d))
	*d = append(*d, c)
}

// Pop implements heap.Interface.
func (d *deadlines) Pop() any {
	last := len(*d) - 1
	c := (*d)[last]
	(*d)[last] = nil
	*d = (*d)[:last]
	c.place = -1
	return c
}

// set makes sure that c is looked at when its limit is reached.
func (d *deadlines) set(c *conn) {
	switch {
	case c.place < 0:
		c.due = c.limit
		heap.Push(d, c)
	case c.limit < c.due:
		c.due = c.limit
		heap.Fix(d, int(c.place))
	}
}

// drop forgets c.
func (d *deadlines) drop(c *conn) {
	if c.place >= 0 {
		heap.Remove(d, int(c.place))
	}
}

// next returns a connection whose limit is reached, or nil and when to ask again;
// 0 means never.
func (d *deadlines) next(now int64) (*conn, int64) {
	for len(*d) > 0 {
		c := (*d)[0]
		if c.due > now {
			return nil, c.due
		}
		if c.limit <= now {
			heap.Pop(d)
			return c, 0
		}
		c.due = c.limit
		heap.Fix(d, 0)
	}
	return nil, 0
}
