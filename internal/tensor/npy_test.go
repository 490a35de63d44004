package tensor

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strings"
	"testing"
)

// npyFile makes a file with any header.
func npyFile(version byte, header string, data []byte) []byte {
	file := append([]byte(npyMagic), version, 0)
	if version == 1 {
		file = binary.LittleEndian.AppendUint16(file, uint16(len(header)))
	} else {
		file = binary.LittleEndian.AppendUint32(file, uint32(len(header)))
	}
	return append(append(file, header...), data...)
}

func TestNPY(t *testing.T) {
	const good = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 2), }   \n"
	data := make([]byte, 16)
	for _, test := range []struct {
		name, error string
		file        []byte
	}{
		{"version 1", "", npyFile(1, good, data)},
		{"version 2", "", npyFile(2, good, data)},
		{"version 3", "", npyFile(3, good, data)},
		{"keys in another order, no comma at the end", "", npyFile(1, "{'shape': (4,), 'fortran_order': False, 'descr': '<f4'}\n", data)},
		{"a scalar", "", npyFile(1, "{'descr': '<f8', 'fortran_order': False, 'shape': (), }\n", data[:8])},
		{"a vector in Fortran order is the same", "", npyFile(1, "{'descr': '<f4', 'fortran_order': True, 'shape': (4,), }\n", data)},
		{"version 4", "format version 4 is not supported", npyFile(4, good, data)},
		{"Fortran order", "Fortran order", npyFile(1, strings.Replace(good, "False", "True", 1), data)},
		{"big-endian", "little-endian", npyFile(1, strings.Replace(good, "<f4", ">f4", 1), data)},
		{"objects", "Python objects", npyFile(1, strings.Replace(good, "<f4", "|O", 1), data)},
		{"text", "is not one of bool", npyFile(1, strings.Replace(good, "<f4", "<U4", 1), data)},
		{"a struct", "is not a dict of a plain descr", npyFile(1, "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (2,), }\n", data)},
		{"a byte is missing", "15 bytes, but shape [2 2] of float32 takes 16", npyFile(1, good, data[:15])},
		{"a byte too much", "17 bytes", npyFile(1, good, append(data, 0))},
		{"a shape beyond all memory", "larger than any memory", npyFile(1, strings.Replace(good, "(2, 2)", "(4294967296, 4294967296, 2)", 1), data)},
		{"a size beyond int64", "reading a size", npyFile(1, strings.Replace(good, "(2, 2)", "(99999999999999999999,)", 1), data)},
		{"a negative size", "is not a dict", npyFile(1, strings.Replace(good, "(2, 2)", "(-1, 2)", 1), data)},
		{"nothing in it", "empty array", npyFile(1, strings.Replace(good, "(2, 2)", "(0, 2)", 1), nil)},
		{"a key twice", "lacks descr", npyFile(1, "{'descr': '<f4', 'descr': '<f4', 'shape': (2,)}\n", data)},
		{"the header ends early", "ends within its header", npyFile(1, good, nil)[:40]},
		{"a header of 4 GiB", "at most 10000", npyFile(2, good, nil)[:8:8]},
		{"no magic", "magic", []byte("hello, numpy")},
		{"nine dimensions", "9 dimensions", npyFile(1, strings.Replace(good, "(2, 2)", "(1, 1, 1, 1, 1, 1, 1, 2, 2)", 1), data)},
	} {
		t.Run(test.name, func(t *testing.T) {
			file := test.file
			if test.name == "a header of 4 GiB" {
				file = append(file, 0xff, 0xff, 0xff, 0xff)
			}
			_, err := answer(t, signature(t, Input{Name: "x"}), NPY, "/", string(file))
			if (test.error == "") != (err == nil) || (err != nil && !strings.Contains(err.Error(), test.error)) {
				t.Errorf("%v; want %q", err, test.error)
			}
		})
	}
}

// FuzzNPY wants an error or an array that is all of the file behind the header, and
// that is the same once it was written and read again.
func FuzzNPY(f *testing.F) {
	for d := Bool; d < dtypes; d++ {
		f.Add(append(appendNPYHeader(nil, d, []int{2, 1}), make([]byte, 2*d.Size())...))
	}
	f.Add(npyFile(2, "{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296), }", nil))
	f.Add(npyFile(3, "{'shape': (1,), 'fortran_order': True, 'descr': '<i8'}\n", make([]byte, 8)))
	s := signature(f, Input{Name: "x"})
	f.Fuzz(func(t *testing.T, file []byte) {
		row, err := s.DecodeRequest(NPY, "/", file)
		if err != nil {
			checkError(t, err, file)
			return
		}
		v := row.values[0]
		if size, err := itemBytes(v.dtype, v.dims()); err != nil || size != len(v.data) || !bytes.HasSuffix(file, v.data) {
			t.Fatalf("%s %v with %d bytes, %v", v.dtype, v.dims(), len(v.data), err)
		}
		again, err := s.DecodeRequest(NPY, "/", append(appendNPYHeader(nil, v.dtype, v.dims()), v.data...))
		if err != nil || again.values[0].dtype != v.dtype || !slices.Equal(again.values[0].dims(), v.dims()) || !bytes.Equal(again.values[0].data, v.data) {
			t.Fatalf("it comes back as %+v, %v", again, err)
		}
		again.Release()
		row.Release()
	})
}
