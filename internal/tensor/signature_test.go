package tensor

import (
	"encoding/json"
	"math"
	"strings"
	"testing"
)

func TestInputsAreReadAsWorkersWriteThem(t *testing.T) {
	var in Input
	text := `{"name":"x","dtype":"float32","shape":[-1,3],"optional":true,"pad":[64,128],"pad_value":"nan","mask":true,"lengths":true}`
	if err := json.Unmarshal([]byte(text), &in); err != nil {
		t.Fatal(err)
	}
	if in.Dtype != Float32 || len(in.Shape) != 2 || in.Pad == nil || len(in.Pad.Buckets) != 2 || !math.IsNaN(float64(in.PadValue)) || !in.Mask || !in.Lengths || !in.Optional {
		t.Errorf("%+v", in)
	}
	again, err := json.Marshal(in)
	if err != nil || string(again) != strings.Replace(text, `"nan"`, `"NaN"`, 1) {
		t.Errorf("%s, %v", again, err)
	}
	if err := json.Unmarshal([]byte(`{"pad":"longest","pad_value":-1}`), &in); err != nil || in.Pad.Buckets != nil || in.PadValue != -1 {
		t.Errorf("%+v, %v", in, err)
	}
	for _, bad := range []string{`{"pad":"shortest"}`, `{"pad":null,"pad_value":"much"}`, `{"dtype":"flaot32"}`, `{"pad_value":true}`} {
		if err := json.Unmarshal([]byte(bad), new(Input)); err == nil {
			t.Errorf("%s was taken", bad)
		}
	}
}

func TestSignaturesThatCannotBe(t *testing.T) {
	x := func(change func(*Input)) []Input {
		in := Input{Name: "x"}
		change(&in)
		return []Input{in}
	}
	for _, test := range []struct {
		inputs []Input
		error  string
	}{
		{nil, "at least one parameter"},
		{[]Input{{}}, "needs a name"},
		{[]Input{{Name: "x"}, {Name: "x"}}, `"x" is taken`},
		{[]Input{{Name: "x", Pad: &Pad{}, Mask: true}, {Name: "x_mask"}}, `"x_mask" is taken`},
		{x(func(in *Input) { in.Mask = true }), "only a padded input"},
		{x(func(in *Input) { in.PadValue = 1 }), "without pad"},
		{x(func(in *Input) { in.Shape = []int{0} }), "at least 1"},
		{x(func(in *Input) { in.Shape = make([]int, 9) }), "at most 8"},
		{x(func(in *Input) { in.Pad = &Pad{Buckets: []int{2, 2}} }), "must be at least 1 and grow"},
		{x(func(in *Input) { in.Pad = &Pad{Buckets: []int{}} }), "empty list of buckets"},
		{x(func(in *Input) { in.Pad, in.Shape = &Pad{}, []int{3} }), "must be open"},
		{x(func(in *Input) { in.Pad, in.PadValue = &Pad{}, 0.5 }), "without a dtype it must be an integer"},
		{x(func(in *Input) { in.Pad, in.PadValue, in.Dtype = &Pad{}, 256, Uint8 }), "not a value of dtype uint8"},
		{x(func(in *Input) { in.Pad, in.PadValue, in.Dtype = &Pad{}, PadValue(math.NaN()), Int32 }), "not a value of dtype int32"},
		{x(func(in *Input) { in.Pad, in.PadValue, in.Dtype = &Pad{}, 70000, Float16 }), "not a value of dtype float16"},
		{x(func(in *Input) { in.Pad, in.PadValue, in.Dtype = &Pad{}, 2, Bool }), "not a value of dtype bool"},
	} {
		if _, err := NewSignature("", test.inputs); err == nil || !strings.Contains(err.Error(), test.error) {
			t.Errorf("%+v: %v; want %q", test.inputs, err, test.error)
		}
	}
}

func TestPaddingWithNaN(t *testing.T) {
	s := signature(t, Input{Name: "x", Dtype: Float32, Pad: &Pad{Buckets: []int{3}}, PadValue: PadValue(math.NaN())})
	row, err := s.DecodeRequest("", "/", []byte(`[1]`))
	if err != nil {
		t.Fatal(err)
	}
	_, block := collate(t, row)
	if want := "\x00\x00\x80\x3f\x00\x00\xc0\x7f\x00\x00\xc0\x7f"; string(block) != want {
		t.Errorf("% x", block)
	}
}
