package tensor

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"math/bits"
	"slices"

	quickbase64 "github.com/segmentio/asm/base64"
)

// binary reads a tensor within JSON: {"b64": "…", "dtype": "float32", "shape": [2, 3]}.
// What the input declares may be left out.
func (d *decoder) binary() error {
	start := d.pos
	var b64 []byte
	var dtype Dtype
	var shape []int
	var seen [3]bool
	err := d.members(func(key []byte, at int) (err error) {
		which := slices.Index(binaryKeys, string(key))
		if which < 0 {
			return d.errorf(at, "an object where numbers should be; binary data is {\"b64\": \"…\", \"dtype\": \"float32\", \"shape\": [2, 3]}, and has no key %q", shortened(string(key)))
		}
		if seen[which] {
			return d.errorf(at, "the key %q is there twice", key)
		}
		seen[which] = true
		switch which {
		case 0:
			b64, err = d.base64Text()
		case 1:
			dtype, err = d.dtype()
		default:
			shape, err = d.sizes()
		}
		return err
	})
	if err != nil {
		return err
	}
	if !seen[0] {
		return d.errorf(start, "an object without a key \"b64\"")
	}
	data, err := d.unbase64(b64, start)
	if err != nil {
		return err
	}
	if !seen[2] {
		return d.elements(data, dtype, d.in.Shape, start)
	}
	return d.elements(data, dtype, shape, start)
}

var binaryKeys = []string{"b64", "dtype", "shape"}

// base64Text is text without a look at each of many bytes: those of base64 are
// checked when they are decoded.
func (d *decoder) base64Text() ([]byte, error) {
	if d.peek() == '"' {
		rest := d.body[d.pos+1:]
		if n := bytes.IndexByte(rest, '"'); n >= 0 && bytes.IndexByte(rest[:n], '\\') < 0 {
			d.pos += n + 2
			return rest[:n], nil
		}
	}
	return d.text()
}

// unbase64 decodes into the row's buffer.
func (d *decoder) unbase64(text []byte, offset int) ([]byte, error) {
	start := len(d.row.buf)
	// The decoder would skip line breaks.
	if bytes.IndexByte(text, '\n') >= 0 || bytes.IndexByte(text, '\r') >= 0 {
		return nil, d.errorf(offset, "its base64 text has line breaks")
	}
	d.row.buf = slices.Grow(d.row.buf, strictBase64.DecodedLen(len(text)))
	room := d.row.buf[start:cap(d.row.buf)]
	n, err := decodeBase64(room, text)
	if err != nil {
		return nil, d.errorf(offset, "its base64 text cannot be read: %v; it must be of the standard alphabet, with padding", err)
	}
	d.row.buf = d.row.buf[:start+n]
	return room[:n:n], nil
}

// strictBase64 takes one text for each value, but for line breaks.
var strictBase64 = base64.StdEncoding.Strict()

// decodeBase64 is strictBase64.Decode, ten times as fast on long texts. The quick
// decoder is not strict, which matters in the last four characters only: no others
// may be padding, which shows in the length.
func decodeBase64(dst, text []byte) (int, error) {
	const long = 64
	if last := len(text) - 4; len(text) >= long && len(text)%4 == 0 {
		if n, err := quickbase64.StdEncoding.Decode(dst, text[:last]); err == nil && n == last/4*3 {
			if end, err := strictBase64.Decode(dst[n:], text[last:]); err == nil {
				return n + end, nil
			}
		}
	}
	return strictBase64.Decode(dst, text)
}

func (d *decoder) dtype() (Dtype, error) {
	at := d.pos
	name, err := d.text()
	if err != nil {
		return 0, err
	}
	dtype, err := ParseDtype(shortened(string(name)))
	if err != nil {
		return 0, d.errorf(at, "%v", err)
	}
	return dtype, nil
}

// sizes reads a shape.
func (d *decoder) sizes() ([]int, error) {
	at := d.pos
	if d.peek() != '[' {
		return nil, d.errorf(at, "its shape must be a list of sizes")
	}
	n := bytes.IndexByte(d.body[d.pos:], ']')
	if n < 0 {
		d.pos = len(d.body)
		return nil, d.unexpected("']'")
	}
	var shape []int
	if err := json.Unmarshal(d.body[d.pos:d.pos+n+1], &shape); err != nil {
		return nil, d.errorf(at, "its shape must be a list of sizes: %v", err)
	}
	d.pos += n + 1
	if shape == nil {
		shape = []int{}
	}
	return shape, nil
}

// raw takes the body as the elements that the input declares.
func (d *decoder) raw() error {
	if d.in.Dtype == 0 {
		return d.errorf(-1, "a body of type %s has no dtype, and the model declares none; send %s", Raw, NPY)
	}
	if err := d.elements(d.body, 0, d.in.Shape, -1); err != nil {
		return err
	}
	return d.end(-1)
}

// elements sets the current input to data, which the row refers to. A dtype of 0 is
// the declared one. One size of the shape may be open; without a shape it is a list.
func (d *decoder) elements(data []byte, dtype Dtype, shape []int, offset int) error {
	switch {
	case dtype == 0 && d.in.Dtype == 0:
		return d.errorf(offset, "binary data without a \"dtype\", and the model declares none")
	case dtype == 0:
		dtype = d.in.Dtype
	case d.in.Dtype != 0 && dtype != d.in.Dtype:
		return d.errorf(offset, "it has dtype %s, the model takes %s; binary data is not converted", dtype, d.in.Dtype)
	}
	if shape == nil {
		shape = []int{Any}
	}
	if len(shape) > MaxDims {
		return d.errorf(offset, "it has %d dimensions; at most %d are supported", len(shape), MaxDims)
	}
	v := d.v
	v.ndim = copy(v.shape[:], shape)
	if err := d.solveShape(v.dims(), len(data), dtype, offset); err != nil {
		return err
	}
	if dtype == Bool {
		if i := notBool(data); i >= 0 {
			return d.errorf(offset, "its element %d is a byte of 0x%02x; bool is 0 or 1", i, data[i])
		}
	}
	v.dtype, v.data = dtype, data[:len(data):len(data)]
	return nil
}

// solveShape finds the open size, and checks that the shape holds just the bytes.
func (d *decoder) solveShape(shape []int, size int, dtype Dtype, offset int) error {
	elements, open := uint64(1), -1
	for i, n := range shape {
		switch {
		case n == Any && open < 0:
			open = i
			continue
		case n < 1:
			return d.errorf(offset, "its shape %v has a size of %d; sizes are at least 1, and one may be open (-1)", shape, n)
		}
		hi, lo := bits.Mul64(elements, uint64(n))
		if elements = lo; hi != 0 || lo > 1<<59 {
			return d.errorf(offset, "its shape %v is larger than any memory", shape)
		}
	}
	want := elements * uint64(dtype.Size()) // at most 2^62
	have := uint64(size)
	if open >= 0 && have > 0 && have%want == 0 {
		shape[open] = int(have / want)
		return nil
	}
	if open >= 0 {
		return d.errorf(offset, "it has %d bytes, which is no multiple of the %d bytes that each step of shape %s of %s takes", size, want, shapeText(shape), dtype)
	}
	if have != want {
		return d.errorf(offset, "it has %d bytes, but shape %v of %s takes %d", size, shape, dtype, want)
	}
	return nil
}

// notBool finds a byte that is neither 0 nor 1.
func notBool(data []byte) int {
	for i, b := range data {
		if b > 1 {
			return i
		}
	}
	return -1
}
