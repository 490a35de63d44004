package tensor

import (
	"encoding/binary"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// npyMagic begins every .npy file; two bytes of version follow, then the length of
// the header: two bytes in version 1, four in 2 and 3. The header is the text of a
// Python dict. The format is that of numpy.lib.format.
const npyMagic = "\x93NUMPY"

// maxNPYHeader is the longest header that is read; NumPy writes 118 bytes.
const maxNPYHeader = 10_000

// npy takes the body as one array in .npy.
func (d *decoder) npy() error {
	header, data, err := cutNPY(d.body)
	if err != nil {
		return d.errorf(0, "the body is not .npy: %v", err)
	}
	h := d.sig.lastNPY.Load()
	if h == nil || h.text != string(header) {
		if h, err = parseNPYHeader(string(header)); err != nil {
			return d.errorf(len(npyMagic), "%v", err)
		}
		d.sig.lastNPY.Store(h)
	}
	if err := d.elements(data, h.dtype, h.shape, -1); err != nil {
		return err
	}
	return d.end(-1)
}

// npyHeader is what a header says.
type npyHeader struct {
	text  string
	dtype Dtype
	shape []int
}

// cutNPY cuts a file into its header and its data.
func cutNPY(file []byte) (header, data []byte, err error) {
	if len(file) < len(npyMagic)+4 || string(file[:len(npyMagic)]) != npyMagic {
		return nil, nil, fmt.Errorf("it does not begin with the magic bytes %q", npyMagic)
	}
	version, rest := file[len(npyMagic)], file[len(npyMagic)+2:]
	var n uint64
	switch version {
	case 1:
		n, rest = uint64(binary.LittleEndian.Uint16(rest)), rest[2:]
	case 2, 3:
		if len(rest) < 4 {
			return nil, nil, fmt.Errorf("it ends within its header")
		}
		n, rest = uint64(binary.LittleEndian.Uint32(rest)), rest[4:]
	default:
		return nil, nil, fmt.Errorf("format version %d is not supported; 1, 2 and 3 are", version)
	}
	if n > maxNPYHeader {
		return nil, nil, fmt.Errorf("its header has %d bytes; at most %d are read", n, maxNPYHeader)
	}
	if uint64(len(rest)) < n {
		return nil, nil, fmt.Errorf("it ends within its header of %d bytes", n)
	}
	return rest[:n], rest[n:], nil
}

// npyDict matches a header as NumPy writes it, its keys in any order.
var npyDict = regexp.MustCompile(`^\{(?:\s*'(descr|fortran_order|shape)'\s*:\s*('[^']*'|True|False|\([0-9, ]*\))\s*,?){3}\s*\}\s*$`)

var npyEntry = regexp.MustCompile(`'(descr|fortran_order|shape)'\s*:\s*('[^']*'|True|False|\([0-9, ]*\))`)

func parseNPYHeader(header string) (*npyHeader, error) {
	if !npyDict.MatchString(header) {
		return nil, fmt.Errorf("the .npy header %q is not a dict of a plain descr, fortran_order and shape", shortened(header))
	}
	entries := make(map[string]string)
	for _, m := range npyEntry.FindAllStringSubmatch(header, -1) {
		entries[m[1]] = m[2]
	}
	fortran := entries["fortran_order"]
	switch {
	case len(entries) != 3, fortran != "True" && fortran != "False":
		return nil, fmt.Errorf("the .npy header %q lacks descr, fortran_order or shape", shortened(header))
	case strings.HasPrefix(entries["descr"], "'|O"), strings.HasPrefix(entries["descr"], "'O"):
		return nil, fmt.Errorf("the .npy holds Python objects, which are not taken; send numbers")
	}
	h := &npyHeader{text: header}
	var err error
	if h.dtype, err = ParseDtype(strings.Trim(entries["descr"], "'")); err != nil {
		return nil, fmt.Errorf("the .npy has another datatype: %w", err)
	}
	if h.shape, err = parseTuple(entries["shape"]); err != nil {
		return nil, fmt.Errorf("the .npy header has shape %s: %w", shortened(entries["shape"]), err)
	}
	if fortran == "True" && len(h.shape) > 1 {
		return nil, fmt.Errorf("the .npy is in Fortran order; send numpy.ascontiguousarray(x)")
	}
	for _, n := range h.shape {
		if n == 0 {
			return nil, fmt.Errorf("the .npy holds an empty array, of shape %v", h.shape)
		}
	}
	return h, nil
}

// parseTuple reads (), (2,) or (2, 3).
func parseTuple(tuple string) ([]int, error) {
	shape := []int{}
	inner, opens := strings.CutPrefix(tuple, "(")
	inner, closes := strings.CutSuffix(inner, ")")
	if !opens || !closes {
		return nil, fmt.Errorf("it is no tuple")
	}
	if strings.TrimSpace(inner) == "" {
		return shape, nil
	}
	for size := range strings.SplitSeq(strings.TrimSuffix(strings.TrimSpace(inner), ","), ",") {
		n, err := strconv.Atoi(strings.TrimSpace(size))
		if err != nil {
			return nil, fmt.Errorf("reading a size: %w", err)
		}
		shape = append(shape, n)
	}
	return shape, nil
}

// AppendNPY appends the item as a .npy file of version 1. An answer of several
// arrays is an error: the format holds one.
func (it Item) AppendNPY(dst []byte) ([]byte, error) {
	if n := len(it.answers.outputs); n > 1 {
		return dst, fmt.Errorf("the model answers with %d arrays, and .npy holds one; ask for application/json", n)
	}
	o := &it.answers.outputs[0]
	return append(appendNPYHeader(dst, o.dtype, o.shape), it.data(o)...), nil
}

func appendNPYHeader(dst []byte, d Dtype, shape []int) []byte {
	start := len(dst)
	dst = append(dst, npyMagic+"\x01\x00\x00\x00{'descr': '"...)
	dst = append(dst, d.Code()...)
	dst = append(dst, "', 'fortran_order': False, 'shape': ("...)
	for i, n := range shape {
		if i > 0 {
			dst = append(dst, ' ')
		}
		dst = append(strconv.AppendInt(dst, int64(n), 10), ',')
	}
	if len(shape) > 1 {
		dst = dst[:len(dst)-1]
	}
	dst = append(dst, "), }"...)
	for (len(dst)-start+1)%Alignment != 0 { // the data begins aligned
		dst = append(dst, ' ')
	}
	dst = append(dst, '\n')
	binary.LittleEndian.PutUint16(dst[start+8:], uint16(len(dst)-start-10))
	return dst
}
