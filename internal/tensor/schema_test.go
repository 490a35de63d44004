package tensor

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// What the schema takes the decoder takes, and the other way round, but for what a
// schema cannot say.
func TestTheSchemaTakesWhatTheDecoderTakes(t *testing.T) {
	two := []int{2}
	one := signature(t, Input{Name: "x", Dtype: Int8, Shape: two})
	several := signature(t, Input{Name: "a"}, Input{Name: "b", Dtype: Float32, Shape: []int{}, Optional: true}, Input{Name: "c", Dtype: Bool, Shape: []int{Any}})
	for _, c := range []struct {
		s    *Signature
		body string
		good bool
	}{
		{one, `{"x":[1,2]}`, true}, {one, `[1,2]`, true}, {one, `{"x":[1]}`, false}, {one, `{"x":[1,128]}`, false}, {one, `{"y":[1,2]}`, false},
		{one, `{}`, false}, {one, `{"x":"a"}`, false}, {one, `{"x":{"b64":"AAA="}}`, true}, {one, `null`, false}, {one, `{"x":[[1,2]]}`, false},
		{several, `{"a":[[1],[2]],"c":[true]}`, true}, {several, `{"a":1.5,"b":2,"c":[false,true]}`, true}, {several, `{"a":true,"c":[1]}`, false},
		{several, `{"a":1,"b":[2],"c":[true]}`, false}, {several, `[1]`, false}, {several, `{"c":[true]}`, false},
	} {
		text, err := json.Marshal(c.s.JSONSchema())
		if err != nil {
			t.Fatal(err)
		}
		schema, _ := jsonschema.UnmarshalJSON(bytes.NewReader(text))
		compiler := jsonschema.NewCompiler()
		if err := compiler.AddResource("s.json", schema); err != nil {
			t.Fatal(err)
		}
		body, _ := jsonschema.UnmarshalJSON(bytes.NewReader([]byte(c.body)))
		invalid := compiler.MustCompile("s.json").Validate(body)
		row, refused := c.s.DecodeRequest("application/json", "/", []byte(c.body))
		if refused == nil {
			row.Release()
		}
		if (invalid == nil) != c.good || (refused == nil) != c.good {
			t.Errorf("%s: the schema says %v, the decoder %v", c.body, invalid, refused)
		}
	}
}
