package tensor

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"strings"
	"testing"
)

// FuzzBase64 holds the quick way against the strict decoder of the standard library.
func FuzzBase64(f *testing.F) {
	long := base64.StdEncoding.EncodeToString(bytes.Repeat([]byte("shoal"), 40))
	for _, text := range []string{"", "AQID", "AQ==", "AR==", "AQ=", long, long + "AQ==", long + "AR==", "AQ==" + long, long + "====", long[:len(long)-1], long + "\n", strings.Replace(long, "a", "-", 1), long + "AQ==" + long} {
		f.Add([]byte(text), uint8(1))
		f.Add([]byte(text), uint8(30))
	}
	f.Fuzz(func(t *testing.T, text []byte, times uint8) {
		if text = bytes.Repeat(text, int(times)); bytes.ContainsAny(text, "\r\n") {
			return // refused before
		}
		want, wantErr := strictBase64.DecodeString(string(text))
		room := bytes.Repeat([]byte{0xee}, strictBase64.DecodedLen(len(text))+64)
		n, err := decodeBase64(room[:len(room)-64], text)
		if (err == nil) != (wantErr == nil) || (err == nil && !bytes.Equal(room[:n], want)) {
			t.Fatalf("%s: % x, %v; want % x, %v", text, room[:n], err, want, wantErr)
		}
		if rest := room[len(room)-64:]; !bytes.Equal(rest, bytes.Repeat([]byte{0xee}, 64)) {
			t.Fatalf("%s: written beyond the end: % x", text, rest)
		}
	})
}

func TestBinaryInJSON(t *testing.T) {
	text := func(list any) string {
		data, err := binary.Append(nil, binary.LittleEndian, list)
		if err != nil {
			t.Fatal(err)
		}
		quoted, err := json.Marshal(data) // as base64
		if err != nil {
			t.Fatal(err)
		}
		return string(quoted)
	}
	six := text([]float32{1, 2, 3, 4, 5, 6})
	for _, test := range []struct {
		input      Input
		object     string
		want, fail string
	}{
		{Input{}, `{"b64": ` + six + `, "dtype": "float32", "shape": [2,3]}`, `[[1,2,3],[4,5,6]]`, ""},
		{Input{}, `{"shape": [-1, 2], "dtype": "<f4", "b64": ` + six + `}`, `[[1,2],[3,4],[5,6]]`, ""},
		{Input{}, `{"b64": ` + six + `, "dtype": "float32"}`, `[1,2,3,4,5,6]`, ""},
		{Input{Dtype: Float32, Shape: []int{3, Any}}, `{"b64": ` + six + `}`, `[[1,2],[3,4],[5,6]]`, ""},
		{Input{Dtype: Float32, Shape: []int{6}}, `{"b64": ` + six + `, "shape": [2,3]}`, "", "its shape is [2, 3], the model takes [6]"},
		{Input{}, `{"b64": ` + six + `}`, "", `binary data without a "dtype"`},
		{Input{Dtype: Float64}, `{"b64": ` + six + `, "dtype": "float32"}`, "", "binary data is not converted"},
		{Input{}, `{"b64": ` + six + `, "dtype": "complex64"}`, "", `is not one of bool`},
		{Input{}, `{"b64": ` + six + `, "dtype": "flaot32"}`, "", `did you mean "float32"?`},
		{Input{}, `{"b64": ` + six + `, "dtype": ">f4"}`, "", `little-endian`},
		{Input{}, `{"b64": ` + six + `, "dtype": "float32", "shape": [7]}`, "", "it has 24 bytes, but shape [7] of float32 takes 28"},
		{Input{}, `{"b64": ` + six + `, "dtype": "float32", "shape": [-1, 4]}`, "", "no multiple of the 16 bytes"},
		{Input{}, `{"b64": ` + six + `, "dtype": "float32", "shape": [-1, -1]}`, "", "sizes are at least 1"},
		{Input{}, `{"b64": ` + six + `, "dtype": "float32", "shape": [0]}`, "", "sizes are at least 1"},
		{Input{}, `{"b64": ` + six + `, "dtype": "float32", "shape": [4611686018427387904, 4]}`, "", "larger than any memory"},
		{Input{}, `{"b64": ` + six + `, "dtype": "float32", "shape": [1.5]}`, "", "a list of sizes"},
		{Input{}, `{"b64": ` + six + `, "dtype": "float32", "shape": 6}`, "", "a list of sizes"},
		{Input{}, `{"b64": ` + six + `, "dtype": "float32", "dtype": "float32"}`, "", `"dtype" is there twice`},
		{Input{}, `{"b64": "AQI", "dtype": "uint8"}`, "", "with padding"},
		{Input{}, `{"b64": "AR==", "dtype": "uint8"}`, "", "cannot be read"},
		{Input{}, `{"b64": "A_==", "dtype": "uint8"}`, "", "standard alphabet"},
		{Input{}, `{"b64": "AQ\n==", "dtype": "uint8"}`, "", "line breaks"},
		{Input{}, `{"b64": "", "dtype": "uint8"}`, "", "0 bytes"},
		{Input{}, `{"b64": 1, "dtype": "uint8"}`, "", "a string should be"},
		{Input{}, `{"dtype": "uint8"}`, "", `without a key "b64"`},
		{Input{}, `{"data": [1,2]}`, "", `an object where numbers should be`},
		{Input{}, `{"b64": "Ag==", "dtype": "bool"}`, "", `a byte of 0x02`},
		{Input{}, `{"b64": "AQA=", "dtype": "bool"}`, `[true,false]`, ""},
	} {
		test.input.Name = "x"
		got, err := answer(t, signature(t, test.input), "", "/", `{"x": `+test.object+`}`)
		if test.fail == "" {
			if err != nil || got != `{"x":`+test.want+`}` {
				t.Errorf("%s: %s, %v; want %s", test.object, got, err, test.want)
			}
		} else if err == nil || !strings.Contains(err.Error(), test.fail) || !strings.HasPrefix(err.Error(), "input \"x\"") && !strings.Contains(err.Error(), "JSON") {
			t.Errorf("%s: %s, %v; want %s", test.object, got, err, test.fail)
		}
	}
}
