package tensor

import (
	"encoding/binary"
	"fmt"
	"math"
	"strconv"
)

// AppendJSON appends the item: a number, a boolean, nested lists of them, or an
// object of these by output. Numbers are written as encoding/json writes those of
// the same Go type, float16 as the float32 that it is. NaN and infinities, which
// JSON has not, are an error.
func (it Item) AppendJSON(dst []byte) ([]byte, error) {
	a := it.answers
	if a.named {
		dst = append(dst, '{')
	}
	for i := range a.outputs {
		o := &a.outputs[i]
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, o.name...)
		var err error
		if dst, err = appendNested(dst, o.dtype, o.shape, it.data(o)); err != nil {
			if a.named {
				return dst, fmt.Errorf("output %s: %w", o.name[:len(o.name)-1], err)
			}
			return dst, err
		}
	}
	if a.named {
		dst = append(dst, '}')
	}
	return dst, nil
}

// appendNested appends the elements as lists in lists.
func appendNested(dst []byte, d Dtype, shape []int, data []byte) (_ []byte, err error) {
	switch len(shape) {
	case 0:
		return appendNumber(dst, d, data)
	case 1:
		return appendList(dst, d, data)
	}
	dst = append(dst, '[')
	for i := range shape[0] {
		if i > 0 {
			dst = append(dst, ',')
		}
		step := len(data) / shape[0]
		if dst, err = appendNested(dst, d, shape[1:], data[i*step:(i+1)*step]); err != nil {
			return dst, err
		}
	}
	return append(dst, ']'), nil
}

func appendList(dst []byte, d Dtype, data []byte) (_ []byte, err error) {
	dst = append(dst, '[')
	for size := d.Size(); len(data) > 0; data = data[size:] {
		if dst, err = appendNumber(dst, d, data); err != nil {
			return dst, err
		}
		dst = append(dst, ',')
	}
	if last := len(dst) - 1; dst[last] == ',' {
		dst[last] = ']'
		return dst, nil
	}
	return append(dst, ']'), nil
}

// appendNumber appends the first element of data.
func appendNumber(dst []byte, d Dtype, data []byte) ([]byte, error) {
	switch d {
	case Bool:
		return strconv.AppendBool(dst, data[0] != 0), nil
	case Int8:
		return strconv.AppendInt(dst, int64(int8(data[0])), 10), nil
	case Int16:
		return strconv.AppendInt(dst, int64(int16(binary.LittleEndian.Uint16(data))), 10), nil
	case Int32:
		return strconv.AppendInt(dst, int64(int32(binary.LittleEndian.Uint32(data))), 10), nil
	case Int64:
		return strconv.AppendInt(dst, int64(binary.LittleEndian.Uint64(data)), 10), nil
	case Uint8:
		return strconv.AppendUint(dst, uint64(data[0]), 10), nil
	case Uint16:
		return strconv.AppendUint(dst, uint64(binary.LittleEndian.Uint16(data)), 10), nil
	case Uint32:
		return strconv.AppendUint(dst, uint64(binary.LittleEndian.Uint32(data)), 10), nil
	case Uint64:
		return strconv.AppendUint(dst, binary.LittleEndian.Uint64(data), 10), nil
	case Float16:
		return appendFloat(dst, fromFloat16(binary.LittleEndian.Uint16(data)), 32)
	case Float32:
		return appendFloat(dst, float64(math.Float32frombits(binary.LittleEndian.Uint32(data))), 32)
	}
	return appendFloat(dst, math.Float64frombits(binary.LittleEndian.Uint64(data)), 64)
}

// appendFloat appends the shortest text that reads back as f, in the notation of
// ECMAScript, as encoding/json does.
func appendFloat(dst []byte, f float64, bits int) ([]byte, error) {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return dst, fmt.Errorf("the model answered %v, which JSON cannot hold; ask for application/x-npy, or replace it in the model", f)
	}
	size := math.Abs(f)
	if size < 1<<53 && f == math.Trunc(f) && bits == 64 && (f != 0 || !math.Signbit(f)) {
		return strconv.AppendInt(dst, int64(f), 10), nil // the common case is quick
	}
	small, large := 1e-6, 1e21
	if bits == 32 {
		small, large = float64(float32(1e-6)), float64(float32(1e21))
	}
	if size == 0 || (size >= small && size < large) {
		return strconv.AppendFloat(dst, f, 'f', -1, bits), nil
	}
	dst = strconv.AppendFloat(dst, f, 'e', -1, bits)
	if n := len(dst); dst[n-4] == 'e' && dst[n-2] == '0' { // e-09 is e-9
		dst[n-2] = dst[n-1]
		dst = dst[:n-1]
	}
	return dst, nil
}
