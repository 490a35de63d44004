package tensor

import (
	"testing"
)

func signature(t testing.TB, inputs ...Input) *Signature {
	t.Helper()
	s, err := NewSignature("", inputs)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// collate lays rows out and releases them.
func collate(t testing.TB, rows ...*Row) (header string, block []byte) {
	t.Helper()
	var c Collation
	for _, r := range rows {
		c.Add(r)
	}
	size, err := c.Measure()
	if err != nil {
		t.Fatal(err)
	}
	header = string(c.AppendLayout(nil))
	block = make([]byte, size)
	c.Fill(block)
	for _, r := range rows {
		r.Release()
	}
	return header, block
}

// answer decodes one query, lays it out alone and writes it as an answer.
func answer(t testing.TB, s *Signature, contentType, target, body string) (string, error) {
	t.Helper()
	row, err := s.DecodeRequest(contentType, target, []byte(body))
	if err != nil {
		return "", err
	}
	header, block := collate(t, row)
	var reader AnswerReader
	a, err := reader.Read([]byte(header), block)
	if err != nil {
		t.Fatal(err)
	}
	out, err := a.Item(0).AppendJSON(nil)
	return string(out), err
}

func TestAQueryComesBackAsItWasSent(t *testing.T) {
	x := Input{Name: "x"}
	for _, test := range []struct {
		inputs      []Input
		target      string
		body        string
		want, error string
	}{
		{[]Input{x}, "/", `{"x": 41}`, `{"x":41}`, ""},
		{[]Input{x}, "/", ` {"x" : [ [1,2 ] , [3,4]] } `, `{"x":[[1,2],[3,4]]}`, ""},
		{[]Input{x}, "/", `{"x": [1, 2.5]}`, `{"x":[1,2.5]}`, ""},
		{[]Input{x}, "/", `{"x": [true, false]}`, `{"x":[true,false]}`, ""},
		{[]Input{x}, "/", `{"\u0078": 1}`, `{"x":1}`, ""},
		{[]Input{x}, "/?x=41", ``, `{"x":41}`, ""},
		{[]Input{x}, "/?x=%5B1,2.5%5D", ``, `{"x":[1,2.5]}`, ""},
		{[]Input{x}, "/", `[1,2,3]`, `{"x":[1,2,3]}`, ""},
		{[]Input{x}, "/", `{"x": {"b64": "AQIDBA==", "dtype": "uint8", "shape": [2,2]}}`, `{"x":[[1,2],[3,4]]}`, ""},
		{[]Input{x}, "/", `{"x": {"b64": "AAAgQQ==", "dtype": "<f4", "shape": []}}`, `{"x":10}`, ""},
	} {
		got, err := answer(t, signature(t, test.inputs...), "", test.target, test.body)
		if got != test.want || (err != nil && err.Error() != test.error) {
			t.Errorf("%s %s: %s, %v; want %s, %s", test.target, test.body, got, err, test.want, test.error)
		}
	}
}
