package tensor

import "sync"

// Row is one query as arrays: an item for each input that it brought. It is made
// by the Decode methods of [Signature] and read by a [Collation].
//
// A row refers to the body that it was decoded from where that holds binary data,
// so the body must stay as it is until Release. Numbers are copies of the row's own.
type Row struct {
	sig     *Signature
	layout  *layout
	values  []value // by input
	buf     []byte  // where values that were decoded lie
	decoder decoder

	// Room for most queries, so that they take no allocation.
	fewValues  [4]value
	fewNumbers [64]byte
}

// value is the item of one input.
type value struct {
	dtype Dtype // 0: absent
	ndim  int
	shape [MaxDims]int
	data  []byte // the elements in C order, little-endian
}

func (v *value) dims() []int { return v.shape[:v.ndim] }

// keptNumbers is the most that a row keeps of its buffer for its next query.
const keptNumbers = 5 << 18 // 1 MiB and what an allocation of that is rounded to

var rows = sync.Pool{New: func() any {
	r := new(Row)
	r.buf = r.fewNumbers[:0]
	return r
}}

func newRow(s *Signature) *Row {
	r := rows.Get().(*Row)
	r.sig = s
	if n := len(s.inputs); n <= len(r.fewValues) {
		r.values = r.fewValues[:n]
	} else {
		r.values = make([]value, n)
	}
	return r
}

// Release gives the row back for another query. It and its body must not be read
// by anybody any more: the batch that it was in is answered, or it was in none.
func (r *Row) Release() {
	clear(r.values)
	if cap(r.buf) > keptNumbers {
		r.buf = r.fewNumbers[:]
	}
	r.sig, r.layout, r.values, r.buf = nil, nil, nil, r.buf[:0]
	rows.Put(r)
}

// Key is the batch key: rows with the same key, and only they, share a batch. It
// holds the method, the datatypes and the shapes after padding. It begins with a
// zero byte, so that it is no method's name.
func (r *Row) Key() string { return r.layout.key }

// Bytes is the memory that the row holds besides the body.
func (r *Row) Bytes() int {
	n := 0
	if cap(r.buf) > len(r.fewNumbers) {
		n = len(r.buf)
	}
	return n
}

// Signature is what the row was decoded for.
func (r *Row) Signature() *Signature { return r.sig }
