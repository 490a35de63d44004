package tensor

import (
	"encoding/binary"
	"encoding/json"
	"math"
	"strings"
	"testing"
)

// FuzzAppendFloat holds the way floats are written against encoding/json.
func FuzzAppendFloat(f *testing.F) {
	for _, v := range []float64{0, math.Copysign(0, -1), 1, -1, 0.1, 1e-6, 9.99e-7, 1e-7, 1e20, 1e21, 1e22, 1 << 53, 1<<53 + 2, math.MaxFloat64, math.SmallestNonzeroFloat64, 1.5e300, 1e-10, math.MaxFloat32, 1e-45, 16777216, 123456789} {
		f.Add(math.Float64bits(v))
	}
	f.Fuzz(func(t *testing.T, bits uint64) {
		same(t, math.Float64frombits(bits))
		same(t, math.Float32frombits(uint32(bits)))
	})
}

func same[T float32 | float64](t *testing.T, v T) {
	data, err := binary.Append(nil, binary.LittleEndian, v)
	if err != nil {
		t.Fatal(err)
	}
	d := Float64
	if len(data) == 4 {
		d = Float32
	}
	want, wantErr := json.Marshal(v)
	got, err := appendNumber(nil, d, data)
	if (err == nil) != (wantErr == nil) || (err == nil && string(got) != string(want)) {
		t.Fatalf("%v as %s: %s, %v; want %s, %v", v, d, got, err, want, wantErr)
	}
}

func TestAnswersAreWritten(t *testing.T) {
	for _, test := range []struct {
		name, layout string
		data         []any
		json, error  string
	}{
		{"a number", `[[null,"<i8",[2]]]`, []any{[]int64{1, -2}}, `-2`, ""},
		{"a list", `[[null,"<f4",[2,2]]]`, []any{[]float32{1, 2, 3, 0.1}}, `[3,0.1]`, ""},
		{"lists in a list", `[[null,"|u1",[2,2,2]]]`, []any{[]uint8{1, 2, 3, 4, 5, 6, 7, 8}}, `[[5,6],[7,8]]`, ""},
		{"booleans", `[[null,"|b1",[2]]]`, []any{[]bool{false, true}}, `true`, ""},
		{"a float16", `[[null,"<f2",[2]]]`, []any{[]uint16{0, 0x2e66}}, `0.099975586`, ""},
		{"empty lists", `[[null,"<f8",[2,0]]]`, nil, `[]`, ""},
		{"an object", `[["label","<i4",[2]],["scores","<f8",[2,1]]]`, []any{[]int32{1, 2}, [56]byte{}, []float64{0.5, 0.25}}, `{"label":2,"scores":[0.25]}`, ""},
		{"an object of one", `[["a \"b\"","<i2",[2]]]`, []any{[]int16{1, 2}}, `{"a \"b\"":2}`, ""},
		{"NaN", `[["y","<f8",[2]]]`, []any{[]float64{1, math.NaN()}}, ``, `output "y": the model answered NaN`},
		{"an infinity", `[[null,"<f4",[2]]]`, []any{[]float32{1, float32(math.Inf(-1))}}, ``, `the model answered -Inf`},
	} {
		t.Run(test.name, func(t *testing.T) {
			var data []byte
			for _, block := range test.data {
				var err error
				if data, err = binary.Append(data, binary.LittleEndian, block); err != nil {
					t.Fatal(err)
				}
			}
			var reader AnswerReader
			a, err := reader.Read([]byte(test.layout), data)
			if err != nil || a.Len() != 2 {
				t.Fatal(a, err)
			}
			got, err := a.Item(1).AppendJSON(nil)
			if err == nil && test.error == "" && string(got) == test.json {
				return
			}
			if err == nil || test.error == "" || !strings.Contains(err.Error(), test.error) {
				t.Errorf("%s, %v; want %s, %s", got, err, test.json, test.error)
			}
		})
	}
}

func TestANaNSpoilsOnlyItsOwnItem(t *testing.T) {
	data, err := binary.Append(nil, binary.LittleEndian, []float64{1, math.NaN(), 3})
	if err != nil {
		t.Fatal(err)
	}
	var reader AnswerReader
	a, err := reader.Read([]byte(`[[null,"<f8",[3]]]`), data)
	if err != nil {
		t.Fatal(err)
	}
	for i, fails := range []bool{false, true, false} {
		if _, err := a.Item(i).AppendJSON(nil); (err != nil) != fails {
			t.Errorf("item %d: %v", i, err)
		}
		if _, err := a.Item(i).AppendNPY(nil); err != nil {
			t.Errorf("item %d as .npy: %v", i, err)
		}
	}
}

func TestAnswersAsNPYCanBeReadAgain(t *testing.T) {
	data, err := binary.Append(nil, binary.LittleEndian, []float32{1, 2, 3, 4, 5, 6})
	if err != nil {
		t.Fatal(err)
	}
	var reader AnswerReader
	for _, layout := range []string{`[[null,"<f4",[2,3]]]`, `[["y","<f4",[2,3,1]]]`, `[[null,"<f4",[6]]]`} {
		a, err := reader.Read([]byte(layout), data)
		if err != nil {
			t.Fatal(err)
		}
		file, err := a.Item(1).AppendNPY(nil)
		if err != nil || (len(file)-len(a.Item(1).data(&a.outputs[0])))%Alignment != 0 {
			t.Fatal(len(file), err)
		}
		want, err := a.Item(1).AppendJSON(nil)
		if err != nil {
			t.Fatal(err)
		}
		got, err := answer(t, signature(t, Input{Name: "y"}), NPY, "/", string(file))
		if err != nil || !strings.Contains(got, string(want)) {
			t.Errorf("%s: %s, %v; want %s", layout, got, err, want)
		}
	}
}

func TestAnswersThatAreNone(t *testing.T) {
	for _, test := range []struct{ layout, error string }{
		{`[]`, "no outputs"},
		{`[[null,"<f4",[2]],["y","<f4",[2]]]`, "without a name"},
		{`[["y","<f4",[2]],["y","<f4",[2]]]`, "twice"},
		{`[["x","<f4",[2]],["y","<f4",[3]]]`, "2 and 3 answers"},
		{`[["x","<f4",[]]]`, "does not begin with the number of answers"},
		{`[["x","<f4",[2,-1]]]`, "negative"},
		{`[["x","<f4",[2,4294967296,4294967296]]]`, "larger than any memory"},
		{`[["x","<f4",[4294967296,4294967296]]]`, "larger than any memory"},
		{`[["x","<c8",[2]]]`, "is not one of"},
		{`[["x","<f4",[2],1]]`, "is not [name, typestr, shape]"},
		{`{}`, "cannot unmarshal"},
		{`[["x","<f4",[2,0,4294967296,2147483648,0]]]`, "too long to be written"},
		{`[["x","<f4",[3]]]`, "has 8 bytes, but its layout"},
	} {
		var reader AnswerReader
		if _, err := reader.Read([]byte(test.layout), make([]byte, 8)); err == nil || !strings.Contains(err.Error(), test.error) {
			t.Errorf("%s: %v; want %q", test.layout, err, test.error)
		}
	}
}

// FuzzAnswers wants no answer whose items could reach beyond their memory.
func FuzzAnswers(f *testing.F) {
	f.Add([]byte(`[[null,"<i8",[2]]]`), make([]byte, 16))
	f.Add([]byte(`[["a","<f4",[1,2]],["b","|b1",[1]]]`), make([]byte, 65))
	f.Add([]byte(`[["a","<f4",[0,99]]]`), []byte{})
	f.Fuzz(func(t *testing.T, layout, data []byte) {
		var reader AnswerReader
		a, err := reader.Read(layout, data)
		if err != nil {
			return
		}
		for i := range min(a.Len(), 100) {
			text, err := a.Item(i).AppendJSON(nil)
			if err == nil && !json.Valid(text) {
				t.Fatalf("%s: item %d is %s", layout, i, text)
			}
			if len(text) > 1<<20 {
				return
			}
		}
	})
}
