package tensor

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"math"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
)

// MaxDims is the most dimensions that an item may have; a batch has one more.
const MaxDims = 8

// Any stands in a declared shape for a size that may be any.
const Any = -1

// Input declares one array that a model takes. Its JSON is part of the READY
// frame of docs/protocol.md.
type Input struct {
	// Name is that of the model's parameter.
	Name string `json:"name"`
	// Dtype is what the model gets. Without one, JSON integers become int64,
	// numbers with a fraction or an exponent float64, and booleans bool.
	Dtype Dtype `json:"dtype,omitempty"`
	// Shape is that of one item, without the batch's axis; Any is any size. nil
	// leaves the shape open, and [] is a scalar.
	Shape []int `json:"shape"`
	// Optional inputs may be missing. Queries without one do not share a batch with
	// queries that have it, and the batch then lacks the input altogether.
	Optional bool `json:"optional,omitempty"`
	// Pad tells how items of different lengths share a batch; nil: they do not.
	Pad *Pad `json:"pad,omitempty"`
	// PadValue fills what is added; 0 is false for bool.
	PadValue PadValue `json:"pad_value,omitempty"`
	// Mask asks for an array NAME_mask: bool [batch, padded], true where the item is.
	Mask bool `json:"mask,omitempty"`
	// Lengths asks for an array NAME_lengths: int64 [batch].
	Lengths bool `json:"lengths,omitempty"`
}

// PadValue is a number. Its JSON is one, or a text for what is none in JSON: "nan",
// "inf", "-inf".
type PadValue float64

// MarshalJSON implements [json.Marshaler].
func (v PadValue) MarshalJSON() ([]byte, error) {
	if f := float64(v); math.IsNaN(f) || math.IsInf(f, 0) {
		return json.Marshal(strconv.FormatFloat(f, 'g', -1, 64))
	}
	return json.Marshal(float64(v))
}

// UnmarshalJSON implements [json.Unmarshaler].
func (v *PadValue) UnmarshalJSON(raw []byte) error {
	var f float64
	var text string
	err := json.Unmarshal(raw, &f)
	if json.Unmarshal(raw, &text) == nil && text != "" {
		f, err = strconv.ParseFloat(text, 64)
	}
	if err != nil {
		return fmt.Errorf("pad_value: %w", err)
	}
	*v = PadValue(f)
	return nil
}

// Pad says to which length the first axis of items is padded. Its JSON is
// "longest" or the list of buckets.
type Pad struct {
	// Buckets are the lengths to choose from, the smallest that holds the item;
	// items in different buckets do not share a batch. None: the longest of the batch.
	Buckets []int
}

// MarshalJSON implements [json.Marshaler].
func (p Pad) MarshalJSON() ([]byte, error) {
	if p.Buckets == nil {
		return []byte(`"longest"`), nil
	}
	return json.Marshal(p.Buckets)
}

// UnmarshalJSON implements [json.Unmarshaler].
func (p *Pad) UnmarshalJSON(raw []byte) error {
	p.Buckets = nil
	if string(raw) == `"longest"` {
		return nil
	}
	if err := json.Unmarshal(raw, &p.Buckets); err != nil || p.Buckets == nil {
		return fmt.Errorf("pad must be \"longest\" or a list of lengths, not %s", raw)
	}
	return nil
}

// Signature is what arrays one method of a model takes. It is safe for concurrent use.
type Signature struct {
	inputs []Input
	names  []string
	prefix string // of every batch key
	sole   int    // the input that a body without names is; -1: there is none
	pads   []padBytes

	last    atomic.Pointer[layout] // of the row before: most rows are alike
	layouts atomic.Pointer[map[string]*layout]
	adding  sync.Mutex // held by who replaces layouts
	lastNPY atomic.Pointer[npyHeader]
}

// NewSignature checks the inputs of a method. Its errors are for the model's
// author: a name twice, buckets that do not grow, a pad value that the dtype has not.
func NewSignature(method string, inputs []Input) (*Signature, error) {
	s := &Signature{inputs: slices.Clone(inputs), sole: -1, pads: make([]padBytes, len(inputs))}
	if len(inputs) == 0 {
		return nil, errors.New("a model that takes arrays needs at least one parameter")
	}
	required := 0
	var taken []string
	for i, in := range inputs {
		if err := in.check(); err != nil {
			return nil, fmt.Errorf("input %q: %w", in.Name, err)
		}
		for _, name := range in.blockNames() {
			if slices.Contains(taken, name) {
				return nil, fmt.Errorf("input %q: the name %q is taken", in.Name, name)
			}
			taken = append(taken, name)
		}
		s.names = append(s.names, in.Name)
		s.pads[i] = newPadBytes(float64(in.PadValue))
		if !in.Optional {
			required++
			s.sole = i
		}
	}
	switch {
	case len(inputs) == 1:
		s.sole = 0
	case required != 1:
		s.sole = -1
	}
	raw, err := json.Marshal(inputs)
	if err != nil {
		return nil, err
	}
	sum := fnv.New64a()
	sum.Write(raw)
	s.prefix = string(binary.LittleEndian.AppendUint64([]byte("\x00"+method+"\x00"), sum.Sum64()))
	s.layouts.Store(new(map[string]*layout))
	return s, nil
}

// Inputs returns the declared inputs, in order. They must not be changed.
func (s *Signature) Inputs() []Input { return s.inputs }

func (in *Input) check() error {
	switch {
	case in.Name == "":
		return errors.New("an input needs a name")
	case in.Dtype >= dtypes:
		return fmt.Errorf("unknown dtype %d", in.Dtype)
	case len(in.Shape) > MaxDims:
		return fmt.Errorf("a shape of %d dimensions; at most %d are supported", len(in.Shape), MaxDims)
	case in.Pad == nil && (in.Mask || in.Lengths):
		return errors.New("only a padded input has a mask or lengths")
	case in.Pad == nil && in.PadValue != 0:
		return errors.New("a pad value without pad")
	}
	for _, n := range in.Shape {
		if n < 1 && n != Any {
			return fmt.Errorf("shape %v: sizes are at least 1, or %d for any", in.Shape, Any)
		}
	}
	if in.Pad != nil {
		return in.checkPad()
	}
	return nil
}

func (in *Input) checkPad() error {
	for i, n := range in.Pad.Buckets {
		if n < 1 || (i > 0 && n <= in.Pad.Buckets[i-1]) {
			return fmt.Errorf("buckets %v: lengths must be at least 1 and grow", in.Pad.Buckets)
		}
	}
	if in.Pad.Buckets != nil && len(in.Pad.Buckets) == 0 {
		return errors.New("an empty list of buckets; give lengths, or \"longest\"")
	}
	if in.Shape != nil && !slices.Equal(in.Shape[:min(1, len(in.Shape))], []int{Any}) {
		return fmt.Errorf("shape %v: a padded input's first size must be open (%d)", in.Shape, Any)
	}
	return checkPadValue(float64(in.PadValue), in.Dtype)
}

// checkPadValue refuses a value that the dtype cannot hold. Without a dtype it must
// be one that integers and floats have.
func checkPadValue(v float64, d Dtype) error {
	ok := true
	switch d {
	case Bool:
		ok = v == 0 || v == 1
	case Float16:
		ok = math.IsNaN(v) || math.IsInf(v, 0) || math.Abs(v) < maxFloat16
	case Float32:
		ok = math.IsNaN(v) || math.IsInf(v, 0) || math.Abs(v) <= math.MaxFloat32
	case Float64:
	default:
		lowest, highest := -0x1p53, 0x1p53
		if d != 0 {
			least, most := intRange(d)
			lowest, highest = max(lowest, float64(least)), min(highest, float64(most))
		}
		ok = v == math.Trunc(v) && v >= lowest && v <= highest
	}
	if !ok {
		if d == 0 {
			return fmt.Errorf("pad value %v: without a dtype it must be an integer", v)
		}
		return fmt.Errorf("pad value %v is not a value of dtype %s", v, d)
	}
	return nil
}

// blockNames are the arrays that the input becomes.
func (in *Input) blockNames() []string {
	names := []string{in.blockName(items)}
	if in.Mask {
		names = append(names, in.blockName(mask))
	}
	if in.Lengths {
		names = append(names, in.blockName(lengths))
	}
	return names
}
