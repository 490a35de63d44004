package tensor

import (
	"bytes"
	"net/url"
	"slices"
	"strings"
	"testing"
)

// FuzzQueryString wants of an argument what the same text gives as a body.
func FuzzQueryString(f *testing.F) {
	for _, text := range []string{"41", "[1,2.5]", "true", " 1 ", "hello", "1 2", "\"a\"", "null", "[", "1%", "+1", "-1", "1e400", "\xff", "[[1],[2]]", "0x10", "1&x=2"} {
		f.Add(text)
	}
	s := signature(f, Input{Name: "x"})
	f.Fuzz(func(t *testing.T, text string) {
		if text == "" || strings.HasPrefix(strings.TrimLeft(text, " \t\r\n"), "{") {
			return // an object means something else in a body
		}
		want, wantErr := s.DecodeRequest("", "/", []byte(text))
		got, err := s.DecodeRequest("", "/?x="+url.QueryEscape(text), nil)
		if (err == nil) != (wantErr == nil) {
			t.Fatalf("%q: %v as an argument, %v as a body", text, err, wantErr)
		}
		if err != nil {
			return
		}
		a, b := &got.values[0], &want.values[0]
		if a.dtype != b.dtype || !slices.Equal(a.dims(), b.dims()) || !bytes.Equal(a.data, b.data) {
			t.Fatalf("%q: %+v as an argument, %+v as a body", text, a, b)
		}
		got.Release()
		want.Release()
	})
}

func TestQueryStrings(t *testing.T) {
	for _, test := range []struct{ target, want, error string }{
		{"/?x=1&y=2.5", `{"x":1,"y":2.5}`, ""},
		{"/?y=2&&x=%31&", `{"x":1,"y":2}`, ""},
		{"/?%78=1", `{"x":1}`, ""},
		{"/?x=%7B%22b64%22:%22AQ==%22,%22dtype%22:%22uint8%22%7D", `{"x":[1]}`, ""},
		{"/", "", `input "x": it is missing; the model takes x, y (optional)`},
		{"/?x", "", `input "x" (byte 0): it is not JSON: the end where a number`},
		{"/?x=one", "", `input "x" (byte 0): "one" is not a JSON number, boolean or list`},
		{"/?x=1&x=2", "", "there twice"},
		{"/?x=1&z=2", "", `there is no input "z"`},
		{"/?x=%zz", "", `input "x": its query argument cannot be read`},
		{"/?%zz=1", "", "its query string cannot be read"},
		{"/?x=1%00", "", "not JSON"},
	} {
		got, err := answer(t, signature(t, Input{Name: "x"}, Input{Name: "y", Optional: true}), "", test.target, "")
		if got != test.want || (err == nil) != (test.error == "") || (err != nil && !strings.Contains(err.Error(), test.error)) {
			t.Errorf("%s: %s, %v; want %s, %s", test.target, got, err, test.want, test.error)
		}
	}
}
