package tensor

import (
	"fmt"
	"slices"
	"strings"
)

// Dtype is the datatype of an array's elements.
type Dtype uint8

// The datatypes. The zero Dtype is none: an input that declares it takes what the
// query brings.
const (
	Bool Dtype = iota + 1
	Int8
	Int16
	Int32
	Int64
	Uint8
	Uint16
	Uint32
	Uint64
	Float16
	Float32
	Float64

	dtypes // one more than the last
)

var dtypeTable = [dtypes]struct {
	name string
	code string // NumPy's typestr
	size int
}{
	Bool: {"bool", "|b1", 1},
	Int8: {"int8", "|i1", 1}, Int16: {"int16", "<i2", 2}, Int32: {"int32", "<i4", 4}, Int64: {"int64", "<i8", 8},
	Uint8: {"uint8", "|u1", 1}, Uint16: {"uint16", "<u2", 2}, Uint32: {"uint32", "<u4", 4}, Uint64: {"uint64", "<u8", 8},
	Float16: {"float16", "<f2", 2}, Float32: {"float32", "<f4", 4}, Float64: {"float64", "<f8", 8},
}

// Size is the number of bytes of one element.
func (d Dtype) Size() int { return dtypeTable[d].size }

// String is the datatype's name in NumPy, such as "float32"; empty for none.
func (d Dtype) String() string { return dtypeTable[d].name }

// Code is NumPy's typestr, such as "<f4": byte order, kind and size.
func (d Dtype) Code() string { return dtypeTable[d].code }

func (d Dtype) isFloat() bool    { return d >= Float16 && d <= Float64 }
func (d Dtype) isUnsigned() bool { return d >= Uint8 && d <= Uint64 }

// ParseDtype reads a name or a typestr. It takes '=' for '<', and '<' where the
// order of bytes does not matter.
func ParseDtype(s string) (Dtype, error) {
	for d := Bool; d < dtypes; d++ {
		if s == dtypeTable[d].name || s == dtypeTable[d].code {
			return d, nil
		}
	}
	if len(s) == 3 {
		for d := Bool; d < dtypes; d++ {
			if s[1:] == dtypeTable[d].code[1:] && (s[0] == '=' || s[0] == '<' || (d.Size() == 1 && s[0] == '>')) {
				return d, nil
			}
		}
		if s[0] == '>' {
			return 0, fmt.Errorf("dtype %q is big-endian; send little-endian data, such as \"<%s\"", s, s[1:])
		}
	}
	return 0, fmt.Errorf("dtype %q is not one of %s%s", s, strings.Join(dtypeNames(), ", "), suggest(s, dtypeNames()))
}

func dtypeNames() []string {
	var names []string
	for _, row := range dtypeTable[Bool:] {
		names = append(names, row.name)
	}
	return slices.Clip(names)
}

// MarshalText implements [encoding.TextMarshaler].
func (d Dtype) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler]; the empty text is none.
func (d *Dtype) UnmarshalText(text []byte) (err error) {
	*d = 0
	if len(text) > 0 {
		*d, err = ParseDtype(string(text))
	}
	return err
}
