package tensor

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"math"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"
)

// FuzzJSON holds the decoder against encoding/json: what one takes, the other takes
// with the same values, but for what the decoder refuses on purpose.
func FuzzJSON(f *testing.F) {
	for _, body := range []string{
		`{"x": 41}`, `41`, `[1,2,3]`, `{"x":[[1,2],[3,4]],"y":1.5}`, `[[1,2],[3]]`, `[1,[2]]`, `[[1],2]`, `[]`, `[[]]`,
		`{}`, `{"x":1,"x":2}`, `{"\u0078":1}`, `{"x":1,"\u0078":2}`, `-0`, `[-0,1.5]`, `[1.5,-0]`, `-0.0`, `1e400`, `-1e400`, `1e-400`, `01`, `.5`, `5.`, `1e`, `1e+`, `-`, `+1`,
		`9223372036854775807`, `9223372036854775808`, `-9223372036854775808`, `-9223372036854775809`, `18446744073709551615`, `18446744073709551616`,
		`[9223372036854775808,1.5]`, `[1.5,9223372036854775808]`, `[99999999999999999999, 1]`, `123456789012345678901234567890`,
		`[[[[[[[[1]]]]]]]]`, `[[[[[[[[[1]]]]]]]]]`, strings.Repeat("[", 50), `true`, `[true,false]`, `[true,1]`, `[1,true]`, `tru`, `nul`, `null`, `[null]`, `"a"`, `["a"]`,
		`{"x":null}`, "{\"\xff\":1}", `{"\ud800":1}`, "\x00", "1\x00", `1 2`, `[1,]`, `[,1]`, `{"x":1,}`, `{"x" 1}`, `{x:1}`, "\ufeff1", " \t\r\n1 ", "1\u00a0",
		`{"x":{"b64":"AQIDBA==","dtype":"uint8","shape":[2,2]}}`, `{"x":{"b64":"AQ\/+","dtype":"uint8"}}`, `{"x":{}}`,
		`0.1`, `0.30000000000000004`, `1.7976931348623157e308`, `1.7976931348623159e308`, `5e-324`, `2e-324`, `16777217`, `16777217.0`, `3.4028235e38`, `3.4028236e38`, `1.00000005960464477539062500`, `65504`, `65520`, `65519.999`,
		`[1,2,3 ,4]`, `[1, 2,  3,4]`, `[[1,2],[3,4, 5]]`, `[[1,2,3],[4,5,[6]]]`, `[1,2,[3]]`, `[1,2,"a"]`, `[999999999999999999,9999999999999999999,1]`, `[0.25,-0.5,-0,1e5,2]`, `[1,2,]`, `[1,2`, `[1,2,`,
		`128`, `-129`, `256`, `32768`, `65536`, `2147483648`, `4294967296`, `1.0`, `1e0`, `9007199254740993`, `9007199254740993.0`, `0e99999`, `1e99999999999999999999`, `0.000000000000000000000000000000000000000000001`,
	} {
		f.Add(uint8(0), []byte(body))
		f.Add(uint8(Float32), []byte(body))
		f.Add(uint8(Uint64), []byte(body))
	}
	signatures := make([]*Signature, dtypes)
	for d := range signatures {
		signatures[d] = signature(f, Input{Name: "x", Dtype: Dtype(d)}, Input{Name: "y", Dtype: Dtype(d), Optional: true})
	}
	f.Fuzz(func(t *testing.T, dtype uint8, body []byte) {
		d := Dtype(dtype) % dtypes
		if len(body) == 0 {
			return // a query string, then
		}
		before := slices.Clone(body)
		row, err := signatures[d].DecodeRequest("", "/", body)
		if !bytes.Equal(before, body) {
			t.Fatal("the body was changed")
		}
		want, wantErr := oracleBody(body, d)
		switch {
		case err != nil && wantErr == nil:
			if !deliberate(err, body) {
				t.Fatalf("%s as %s: %v; encoding/json takes it", body, d, err)
			}
		case err == nil && wantErr != nil:
			t.Fatalf("%s as %s was taken; want %v", body, d, wantErr)
		case err == nil:
			for i := range row.values {
				if v := &row.values[i]; v.dtype != want[i].dtype || !slices.Equal(v.dims(), want[i].dims()) || !bytes.Equal(v.data, want[i].data) {
					t.Fatalf("%s as %s: input %d is %s %v % x, want %s %v % x", body, d, i, v.dtype, v.dims(), v.data, want[i].dtype, want[i].dims(), want[i].data)
				}
			}
			row.Release()
		default:
			checkError(t, err, body)
		}
	})
}

// deliberate reports whether an error is one that encoding/json would not make.
func deliberate(err error, body []byte) bool {
	return strings.HasSuffix(err.Error(), " there twice") || (strings.Contains(err.Error(), "not UTF-8") && !utf8.Valid(body))
}

// checkError wants an error that says where.
func checkError(t *testing.T, err error, body []byte) {
	input, ok := errors.AsType[*InputError](err)
	if !ok || input.Reason == "" || input.Offset > len(body) || !utf8.ValidString(err.Error()) {
		t.Fatalf("%s: error %#v", body, err)
	}
}

// oracleBody decodes the slow way.
func oracleBody(body []byte, d Dtype) ([2]value, error) {
	var all [2]value
	var top any
	if err := oracleUnmarshal(body, &top); err != nil {
		return all, err
	}
	object, ok := top.(map[string]any)
	if !ok {
		object = map[string]any{"x": top}
	}
	for name, tree := range object {
		i := slices.Index([]string{"x", "y"}, name)
		if i < 0 {
			return all, errors.New("unknown input")
		}
		v, err := oracleValue(tree, d)
		if err != nil {
			return all, err
		}
		all[i] = v
	}
	if all[0].dtype == 0 {
		return all, errors.New("x is missing")
	}
	return all, nil
}

func oracleUnmarshal(body []byte, to any) error {
	if !json.Valid(body) {
		return errors.New("not JSON")
	}
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.UseNumber()
	return decoder.Decode(to)
}

func oracleValue(tree any, d Dtype) (v value, err error) {
	if object, ok := tree.(map[string]any); ok {
		return oracleBinary(object, d)
	}
	var leaves []any
	if v.ndim, leaves, err = oracleShape(tree); err != nil {
		return v, err
	}
	oracleDims(tree, v.shape[:0])
	if v.dtype = d; d == 0 {
		v.dtype = oracleDtype(leaves)
	}
	for _, leaf := range leaves {
		if d == 0 && leaf == json.Number("-0") {
			leaf = json.Number("0") // an integer, as in Python, even where the others are not
		}
		if v.data, err = oracleElement(v.data, leaf, v.dtype); err != nil {
			return v, err
		}
	}
	return v, nil
}

// oracleShape returns the depth and the leaves in order, of lists that are equally long.
func oracleShape(tree any) (int, []any, error) {
	list, ok := tree.([]any)
	if !ok {
		return 0, []any{tree}, nil
	}
	if len(list) == 0 {
		return 0, nil, errors.New("empty")
	}
	depth, length := -1, -1
	var leaves []any
	for _, item := range list {
		n, below, err := oracleShape(item)
		if err != nil {
			return 0, nil, err
		}
		size := -1
		if inner, ok := item.([]any); ok {
			size = len(inner)
		}
		if depth >= 0 && (n != depth || size != length) {
			return 0, nil, errors.New("ragged")
		}
		depth, length = n, size
		leaves = append(leaves, below...)
	}
	if depth+1 > MaxDims {
		return 0, nil, errors.New("deep")
	}
	// Equal sizes of direct children do not make their children's equal.
	for _, item := range list {
		if !slices.Equal(oracleDims(item, nil), oracleDims(list[0], nil)) {
			return 0, nil, errors.New("ragged")
		}
	}
	return depth + 1, leaves, nil
}

func oracleDims(tree any, dims []int) []int {
	if list, ok := tree.([]any); ok {
		return oracleDims(list[0], append(dims, len(list)))
	}
	return dims
}

func oracleDtype(leaves []any) Dtype {
	d := Int64
	for _, leaf := range leaves {
		switch leaf := leaf.(type) {
		case bool:
			return Bool
		case json.Number:
			if strings.ContainsAny(string(leaf), ".eE") {
				d = Float64
			}
		}
	}
	return d
}

func oracleElement(dst []byte, leaf any, d Dtype) ([]byte, error) {
	if b, ok := leaf.(bool); ok {
		if d != Bool {
			return dst, errors.New("a boolean")
		}
		if b {
			return append(dst, 1), nil
		}
		return append(dst, 0), nil
	}
	number, ok := leaf.(json.Number)
	if !ok || d == Bool {
		return dst, errors.New("no number")
	}
	raw := []byte(number)
	switch d {
	case Int8:
		return oracleInto[int8](dst, raw)
	case Int16:
		return oracleInto[int16](dst, raw)
	case Int32:
		return oracleInto[int32](dst, raw)
	case Int64:
		return oracleInto[int64](dst, raw)
	case Uint8:
		return oracleInto[uint8](dst, raw)
	case Uint16:
		return oracleInto[uint16](dst, raw)
	case Uint32:
		return oracleInto[uint32](dst, raw)
	case Uint64:
		return oracleInto[uint64](dst, raw)
	case Float32:
		return oracleInto[float32](dst, raw)
	case Float64:
		return oracleInto[float64](dst, raw)
	}
	f, err := strconv.ParseFloat(string(raw), 64)
	if err != nil || math.Abs(f) >= maxFloat16 {
		return dst, errors.New("range")
	}
	return binary.LittleEndian.AppendUint16(dst, toFloat16(f)), nil
}

func oracleInto[T any](dst, raw []byte) ([]byte, error) {
	var v T
	if err := json.Unmarshal(raw, &v); err != nil {
		if string(raw) != "-0" { // which is no unsigned integer to encoding/json, but 0 to the decoder
			return dst, err
		}
	}
	return binary.Append(dst, binary.LittleEndian, v)
}

func oracleBinary(object map[string]any, d Dtype) (v value, err error) {
	for key := range object {
		if !slices.Contains(binaryKeys, key) {
			return v, errors.New("unknown key")
		}
	}
	text, ok := object["b64"].(string)
	if !ok || strings.ContainsAny(text, "\r\n") {
		return v, errors.New("no b64")
	}
	if v.data, err = base64.StdEncoding.Strict().DecodeString(text); err != nil {
		return v, err
	}
	v.dtype = d
	if raw, ok := object["dtype"]; ok {
		name, ok := raw.(string)
		if !ok {
			return v, errors.New("dtype")
		}
		named, err := ParseDtype(name)
		if err != nil || (d != 0 && named != d) {
			return v, errors.New("dtype")
		}
		v.dtype = named
	}
	if v.dtype == 0 {
		return v, errors.New("no dtype")
	}
	shape := []int{Any}
	if raw, ok := object["shape"]; ok {
		again, err := json.Marshal(raw)
		if err != nil {
			return v, err
		}
		shape = nil
		if err := json.Unmarshal(again, &shape); err != nil || shape == nil {
			return v, errors.New("shape")
		}
	}
	if v.ndim = len(shape); v.ndim > MaxDims {
		return v, errors.New("dims")
	}
	elements, open := 1.0, -1
	for i, n := range shape {
		switch {
		case n == Any && open < 0:
			open = i
		case n < 1:
			return v, errors.New("size")
		default:
			elements *= float64(n)
		}
		v.shape[i] = n
	}
	have := float64(len(v.data)) / float64(v.dtype.Size())
	if open >= 0 {
		n := have / elements
		if n < 1 || n != math.Trunc(n) {
			return v, errors.New("bytes")
		}
		v.shape[open] = int(n)
	} else if have != elements {
		return v, errors.New("bytes")
	}
	if v.dtype == Bool && notBool(v.data) >= 0 {
		return v, errors.New("bool")
	}
	return v, nil
}
