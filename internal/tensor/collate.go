package tensor

import (
	"encoding/binary"
	"errors"
	"math"
	"math/bits"
)

// Alignment is that of each block within a batch or an answer, in bytes.
const Alignment = 64

// ErrTooLarge reports a batch whose size in bytes cannot be told by an int.
var ErrTooLarge = errors.New("the batch is too large to be laid out")

// Collation lays out the rows of one batch as docs/protocol.md wants the body of an
// ARRAYS frame: a block for each array of the layout, in its order, each of shape
// [Len, …] in C order and little-endian, beginning at the next multiple of Alignment. A Collation may be used again, by one goroutine at a time:
//
//	c.Reset(); c.Add(row)…; size, err := c.Measure()
//	text = c.AppendLayout(text); c.Fill(dst[:size])
//
// Nothing that Fill wrote refers to the rows or their bodies.
type Collation struct {
	rows    []*Row
	longest []int // by input: the longest item, where it is padded to that
	blocks  []int // where each block begins
	size    int
}

// Reset forgets the rows.
func (c *Collation) Reset() {
	clear(c.rows)
	c.rows = c.rows[:0]
}

// Add adds a row, whose Key must be that of the others.
func (c *Collation) Add(r *Row) { c.rows = append(c.rows, r) }

// Len is the number of rows.
func (c *Collation) Len() int { return len(c.rows) }

// Measure returns how many bytes the blocks take, or ErrTooLarge. There must be a row.
func (c *Collation) Measure() (int, error) {
	first := c.rows[0]
	c.findLongest(first)
	c.blocks, c.size = c.blocks[:0], 0
	for i := range first.layout.arrays {
		start := (uint64(c.size) + Alignment - 1) &^ (Alignment - 1)
		hi, n := bits.Mul64(c.itemSize(&first.layout.arrays[i]), uint64(len(c.rows)))
		if hi != 0 || n > math.MaxInt-start-Alignment {
			return 0, ErrTooLarge
		}
		c.blocks = append(c.blocks, int(start))
		c.size = int(start + n)
	}
	return c.size, nil
}

func (c *Collation) findLongest(first *Row) {
	c.longest = append(c.longest[:0], make([]int, len(first.values))...)
	for i := range first.layout.arrays {
		if a := &first.layout.arrays[i]; a.longest && a.part == items {
			for _, r := range c.rows {
				c.longest[a.input] = max(c.longest[a.input], r.values[a.input].shape[0])
			}
		}
	}
}

// length is that of the array's first axis, where it is padded.
func (c *Collation) length(a *array) int {
	if a.longest {
		return c.longest[a.input]
	}
	return a.shape[0]
}

// itemSize is the bytes of one item, MaxUint64 for what is too large.
func (c *Collation) itemSize(a *array) uint64 {
	if !a.padded {
		return uint64(a.rest)
	}
	hi, n := bits.Mul64(uint64(a.rest), uint64(c.length(a)))
	if hi != 0 {
		return math.MaxUint64
	}
	return n
}

// AppendLayout appends the layout: JSON, [[name, typestr, [Len, …]], …]. Batches of
// the same key, length and longest items have the same text. Measure comes first.
func (c *Collation) AppendLayout(dst []byte) []byte {
	return c.rows[0].layout.appendText(dst, len(c.rows), c.longest)
}

// Fill writes the blocks; len(dst) is what Measure returned, and its first byte lies
// at a multiple of Alignment of the frame. Every byte is written.
func (c *Collation) Fill(dst []byte) {
	first, end := c.rows[0], 0
	for i, start := range c.blocks {
		clear(dst[end:start])
		a := &first.layout.arrays[i]
		end = start + int(c.itemSize(a))*len(c.rows)
		c.fill(dst[start:end], a, first.sig)
	}
}

func (c *Collation) fill(dst []byte, a *array, s *Signature) {
	switch {
	case a.part == lengths:
		for i, r := range c.rows {
			binary.LittleEndian.PutUint64(dst[8*i:], uint64(r.values[a.input].shape[0]))
		}
	case a.part == mask:
		n := c.length(a)
		for i, r := range c.rows {
			fillMask(dst[n*i:n*(i+1)], r.values[a.input].shape[0])
		}
	case !a.padded && a.rest == 8: // scalars, mostly
		for i, r := range c.rows {
			copy(dst[8*i:8*i+8], r.values[a.input].data)
		}
	case !a.padded:
		for i, r := range c.rows {
			copy(dst[a.rest*i:], r.values[a.input].data)
		}
	default:
		n := a.rest * c.length(a)
		pad := s.pads[a.input][a.dtype]
		for i, r := range c.rows {
			item := dst[n*i : n*(i+1)]
			fillPad(item[copy(item, r.values[a.input].data):], pad)
		}
	}
}

func fillMask(dst []byte, length int) {
	for i := range dst[:length] {
		dst[i] = 1
	}
	clear(dst[length:])
}

// fillPad repeats the element; nil is zero.
func fillPad(dst, element []byte) {
	if element == nil {
		clear(dst)
		return
	}
	for done := copy(dst, element); done < len(dst); done *= 2 {
		copy(dst[done:], dst[:done])
	}
}

// padBytes is a pad value in each datatype.
type padBytes [dtypes][]byte

func newPadBytes(v float64) (p padBytes) {
	if v == 0 && !math.Signbit(v) {
		return p
	}
	for d := Bool; d < dtypes; d++ {
		p[d] = appendElement(nil, d, v)
	}
	return p
}

// appendElement appends a value that checkPadValue let through. In the datatypes
// for which it did not, what is appended is not used.
func appendElement(dst []byte, d Dtype, v float64) []byte {
	var bits uint64
	switch d {
	case Float16:
		bits = uint64(toFloat16(v))
	case Float32:
		bits = uint64(math.Float32bits(float32(v)))
	case Float64:
		bits = math.Float64bits(v)
	case Uint64:
		bits = uint64(v)
	default:
		bits = uint64(int64(v))
	}
	return appendBits(dst, d.Size(), bits)
}

// appendBits appends the low size bytes.
func appendBits(dst []byte, size int, bits uint64) []byte {
	switch size {
	case 1:
		return append(dst, byte(bits))
	case 2:
		return binary.LittleEndian.AppendUint16(dst, uint16(bits))
	case 4:
		return binary.LittleEndian.AppendUint32(dst, uint32(bits))
	}
	return binary.LittleEndian.AppendUint64(dst, bits)
}
