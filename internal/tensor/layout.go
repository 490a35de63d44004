package tensor

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"math/bits"
	"strconv"
)

// layout is what the rows of one batch key have in common. It is immutable.
type layout struct {
	key    string
	arrays []array
}

// array is one block of a batch. A padded input makes up to three.
type array struct {
	input  int
	part   part
	label  []byte // its name and datatype, as a batch's layout begins with them
	dtype  Dtype
	shape  []int // of an item; the first is open where longest is set
	rest   int   // bytes of an item for each step along its first axis, or of a whole item
	padded bool
	// longest: the first axis is as long as the longest item of the batch.
	longest bool
}

// part says which of an input's arrays one is.
type part uint8

const (
	items part = iota
	mask
	lengths
)

// maxLayouts bounds the layouts that a signature remembers, whatever shapes its
// callers think of; the others are made anew for each query.
const maxLayouts = 1024

// place finds the row's layout. It allocates for a shape that was not seen before.
func (s *Signature) place(r *Row) {
	var array [128]byte
	shape := s.appendShape(array[:0], r)
	if last := s.last.Load(); last != nil && last.key[len(s.prefix):] == string(shape) {
		r.layout = last
		return
	}
	known := *s.layouts.Load()
	l := known[string(shape)]
	if l == nil {
		l = s.newLayout(r, shape)
	}
	s.last.Store(l)
	r.layout = l
}

// appendShape appends what tells layouts apart: for each input its datatype and,
// unless it is missing, its padded shape; see [Pad.class].
func (s *Signature) appendShape(key []byte, r *Row) []byte {
	for i := range r.values {
		v := &r.values[i]
		key = append(key, byte(v.dtype))
		if v.dtype == 0 {
			continue
		}
		key = append(key, byte(v.ndim))
		for axis, n := range v.dims() {
			if pad := s.inputs[i].Pad; pad != nil && axis == 0 {
				n = pad.class(n, len(v.data))
			}
			key = binary.AppendUvarint(key, uint64(n))
		}
	}
	return key
}

// length is the one that an item of length n is padded to, 0 for that of the batch.
// The item was checked to fit.
func (p *Pad) length(n int) int {
	for _, bucket := range p.Buckets {
		if bucket >= n {
			return bucket
		}
	}
	return 0
}

// largeItem is the size in bytes from which an item that is padded to the longest
// of its batch meets only items of about its length: it would make every small one
// as large as itself, and a batch of them larger than a frame.
const largeItem = 64 << 10

// class tells apart the lengths that do not share a batch.
func (p *Pad) class(n, bytes int) int {
	if padded := p.length(n); padded != 0 || bytes < largeItem {
		return padded
	}
	return bits.Len(uint(n)) // no other is twice as long
}

func (s *Signature) newLayout(r *Row, shape []byte) *layout {
	l := &layout{key: s.prefix + string(shape)}
	for i := range r.values {
		if r.values[i].dtype != 0 {
			l.arrays = append(l.arrays, s.arraysOf(i, &r.values[i])...)
		}
	}
	for i := range l.arrays {
		a := &l.arrays[i]
		a.label = fmt.Appendf(nil, `[%s,"%s",[`, quote(s.inputs[a.input].blockName(a.part)), a.dtype.Code())
	}
	s.adding.Lock()
	defer s.adding.Unlock()
	known := *s.layouts.Load()
	if len(known) < maxLayouts {
		more := maps.Clone(known)
		if more == nil {
			more = make(map[string]*layout)
		}
		more[string(shape)] = l
		s.layouts.Store(&more)
	}
	return l
}

// arraysOf returns the arrays that one input becomes.
func (s *Signature) arraysOf(i int, v *value) []array {
	in := &s.inputs[i]
	main := array{input: i, dtype: v.dtype, shape: append([]int{}, v.dims()...), rest: v.dtype.Size()}
	from := 0
	if in.Pad != nil {
		main.padded, from = true, 1
		main.shape[0] = in.Pad.length(v.shape[0])
		main.longest = main.shape[0] == 0
	}
	for _, n := range v.dims()[from:] {
		main.rest *= n // no overflow: the item's bytes are there
	}
	all := []array{main}
	if in.Mask {
		all = append(all, array{input: i, part: mask, dtype: Bool, shape: main.shape[:1:1], rest: 1, padded: true, longest: main.longest})
	}
	if in.Lengths {
		all = append(all, array{input: i, part: lengths, dtype: Int64, shape: []int{}, rest: 8})
	}
	return all
}

// appendText appends the layout of a batch of n rows as JSON. longest holds the
// batch's lengths by input.
func (l *layout) appendText(dst []byte, n int, longest []int) []byte {
	dst = append(dst, '[')
	for i := range l.arrays {
		a := &l.arrays[i]
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, a.label...)
		dst = strconv.AppendInt(dst, int64(n), 10)
		for axis, size := range a.shape {
			if axis == 0 && a.longest {
				size = longest[a.input]
			}
			dst = strconv.AppendInt(append(dst, ','), int64(size), 10)
		}
		dst = append(dst, "]]"...)
	}
	return append(dst, ']')
}

func (in *Input) blockName(p part) string {
	switch p {
	case mask:
		return in.Name + "_mask"
	case lengths:
		return in.Name + "_lengths"
	}
	return in.Name
}

// quote writes a name as JSON.
func quote(name string) []byte {
	quoted, err := json.Marshal(name)
	if err != nil {
		panic(err) // a string always has a JSON form
	}
	return quoted
}
