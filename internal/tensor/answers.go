package tensor

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/bits"
)

// Answers are the outputs of a model for one batch. They read the memory that they
// were made from until the last Append of their items.
type Answers struct {
	*answerLayout
	data []byte
}

// answerLayout is what answers with the same layout have in common.
type answerLayout struct {
	n       int
	outputs []output
	named   bool // the model answered with a dict
	bytes   int  // of all blocks
}

type output struct {
	name  []byte // as JSON, with its colon
	dtype Dtype
	shape []int // of an item
	start int   // where its block begins
	size  int   // bytes of an item
}

// AnswerReader reads answers; it remembers layouts. The zero AnswerReader is
// ready. It may be used by one goroutine at a time.
type AnswerReader struct {
	known  map[string]*answerLayout
	layout []byte
}

// maxAnswerLayouts bounds what a reader remembers.
const maxAnswerLayouts = 1024

// Read checks answers as docs/protocol.md has them in an ANSWERS frame. layout is
// JSON, [[name, typestr, [n, …]], …], with null for the name of an array that is the
// whole answer; data holds the blocks as a [Collation] lays them out. The first
// sizes, n, must agree: Len is n. Errors are the model's or the worker's fault. The
// memory may be one that the worker still writes to: what it does then can spoil its
// answers, and nothing else.
func (r *AnswerReader) Read(layout, data []byte) (*Answers, error) {
	r.layout = append(r.layout[:0], layout...) // which is to be one text for all that follows
	layout = r.layout
	l := r.known[string(layout)]
	if l == nil {
		var err error
		if l, err = parseAnswerLayout(layout); err != nil {
			return nil, fmt.Errorf("reading the layout of an answer, %s: %w", shortened(string(layout)), err)
		}
		if r.known == nil || len(r.known) >= maxAnswerLayouts {
			r.known = make(map[string]*answerLayout)
		}
		r.known[string(layout)] = l
	}
	if l.bytes != len(data) {
		return nil, fmt.Errorf("an answer has %d bytes, but its layout %s takes %d", len(data), shortened(string(layout)), l.bytes)
	}
	return &Answers{l, data}, nil
}

func parseAnswerLayout(text []byte) (*answerLayout, error) {
	var entries [][]json.RawMessage
	if err := json.Unmarshal(text, &entries); err != nil {
		return nil, err
	}
	if len(entries) == 0 {
		return nil, errors.New("no outputs")
	}
	l := &answerLayout{n: -1}
	names := make(map[string]bool)
	for _, entry := range entries {
		if len(entry) != 3 {
			return nil, errors.New("an entry is not [name, typestr, shape]")
		}
		var name *string
		var o output
		if err := errors.Join(json.Unmarshal(entry[0], &name), json.Unmarshal(entry[1], &o.dtype), json.Unmarshal(entry[2], &o.shape)); err != nil {
			return nil, err
		}
		switch {
		case name == nil && len(entries) > 1:
			return nil, errors.New("several outputs, one without a name")
		case name != nil && names[*name]:
			return nil, fmt.Errorf("output %q twice", *name)
		case name != nil:
			l.named, names[*name] = true, true
			o.name = append(quote(*name), ':')
		}
		if err := l.add(o); err != nil {
			return nil, err
		}
	}
	return l, nil
}

// add places an output whose shape still begins with n.
func (l *answerLayout) add(o output) error {
	switch {
	case o.dtype == 0:
		return errors.New("an output without a dtype")
	case len(o.shape) == 0 || o.shape[0] < 0:
		return fmt.Errorf("an output of shape %v, which does not begin with the number of answers", o.shape)
	case l.n >= 0 && o.shape[0] != l.n:
		return fmt.Errorf("outputs with %d and %d answers", l.n, o.shape[0])
	}
	l.n, o.shape = o.shape[0], o.shape[1:]
	size, err := itemBytes(o.dtype, o.shape)
	if err != nil {
		return err
	}
	if size == 0 && !writable(o.shape) {
		return fmt.Errorf("an output of shape %v, which is empty and yet too long to be written", o.shape)
	}
	start := (uint64(l.bytes) + Alignment - 1) &^ (Alignment - 1)
	hi, block := bits.Mul64(uint64(size), uint64(l.n))
	if hi != 0 || block > math.MaxInt-start-Alignment {
		return errors.New("outputs larger than any memory")
	}
	o.start, o.size = int(start), size
	l.bytes = int(start + block)
	l.outputs = append(l.outputs, o)
	return nil
}

// writable reports whether the lists of an empty item, which no bytes stand for,
// are few enough to be written.
func writable(shape []int) bool {
	lists := 1
	for _, n := range shape {
		if lists *= max(n, 1); lists > 1<<20 || n > 1<<20 {
			return false
		}
	}
	return len(shape) <= 64
}

// itemBytes is the size of an item; it refuses sizes that are negative or too large.
func itemBytes(d Dtype, shape []int) (int, error) {
	size := uint64(d.Size())
	for _, n := range shape {
		if n < 0 {
			return 0, fmt.Errorf("shape %v has a negative size", shape)
		}
		hi, lo := bits.Mul64(size, uint64(n))
		if hi != 0 || lo > math.MaxInt {
			return 0, fmt.Errorf("shape %v of dtype %s is larger than any memory", shape, d)
		}
		size = lo
	}
	return int(size), nil
}

// Len is the number of items.
func (a *Answers) Len() int { return a.n }

// Item is the answer to query i. It is only a reference: it must be written before
// the memory of the answers is used for something else.
func (a *Answers) Item(i int) Item { return Item{a, i} }

// Item is the answer to one query; the zero Item is none.
type Item struct {
	answers *Answers
	index   int
}

// IsZero reports whether there is no item.
func (it Item) IsZero() bool { return it.answers == nil }

// Size is the bytes of the item in all outputs.
func (it Item) Size() int {
	n := 0
	for i := range it.answers.outputs {
		n += it.answers.outputs[i].size
	}
	return n
}

// Clone returns the item in memory of its own, which lasts.
func (it Item) Clone() Item {
	l := &answerLayout{n: 1, named: it.answers.named}
	data := make([]byte, 0, it.Size())
	for _, o := range it.answers.outputs {
		block := it.data(&o)
		o.start = len(data)
		data = append(data, block...)
		l.outputs = append(l.outputs, o)
	}
	return Item{&Answers{l, data}, 0}
}

// data is the item's bytes of an output.
func (it Item) data(o *output) []byte {
	at := o.start + o.size*it.index
	return it.answers.data[at : at+o.size : at+o.size]
}
