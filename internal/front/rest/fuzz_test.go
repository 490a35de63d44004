package rest

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/shoalserve/shoal/internal/serving"
)

func FuzzCheckJSON(f *testing.F) {
	for _, seed := range []string{
		"", "{}", "[1,]", `{"a": 1,, }`, "tru", "trux", "-", "1e", `"\u12`, `"\ud800"`, "\"\xff\"", "[\xff", "nul ", "1 2", "\ufeff{}", "[\n\n x]", "\"a\x00\"", "tru\x20", "1E1000",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		var value json.RawMessage
		good := json.Unmarshal(body, &value) == nil && utf8.Valid(body)
		if err := checkJSON(http.MethodPost, "application/json", body); (err == nil) != good {
			t.Fatalf("%q: %v", body, err)
		}
		if good {
			return
		}
		e := explainJSON(body)
		if e.offset < 0 || e.offset > int64(len(body)) || e.reason == "" {
			t.Fatalf("%q: %+v", body, e)
		}
		// Line and column lead to the offset.
		at := 0
		for range e.line - 1 {
			at += strings.IndexByte(string(body[at:]), '\n') + 1
		}
		if at += e.column - 1; e.column < 1 || int64(at) != e.offset {
			t.Errorf("%q: line %d, column %d lead to byte %d, not to %d", body, e.line, e.column, at, e.offset)
		}
		if code := serving.Describe(e).Code; code != serving.InvalidArgument {
			t.Errorf("%q: %s", body, code)
		}
	})
}

func FuzzRequestID(f *testing.F) {
	for _, seed := range []string{"", "a", "a b", "ü", "a\r\nb: c", "\x00", "\x7f", strings.Repeat("x", maxRequestID+1)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, id string) {
		got := requestID(&http.Request{Header: http.Header{"X-Request-Id": {id}}})
		safe := len(id) <= maxRequestID && id != "" && strings.IndexFunc(id, func(r rune) bool { return r < '!' || r > '~' }) < 0
		if isRequestID(id) != safe || (got == id) != safe || !isRequestID(got) {
			t.Errorf("%q became %q", id, got)
		}
	})
}

func FuzzTermsOfTimeout(f *testing.F) {
	for _, seed := range []string{"", "500ms", "1.5h", "-1s", "0", "+1s", "1", "9999999h", "1e3s", "µs", "1µs", ".s", "1s "} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value string) {
		terms, err := termsOf(&http.Request{Header: http.Header{timeoutHeader: {value}}})
		got := terms.timeout
		want, parse := time.ParseDuration(value)
		if good := parse == nil && want > 0; (err == nil) != good || (good && got != want) {
			t.Errorf("%q: %v, %v", value, got, err)
		}
		if err != nil && serving.Describe(err).Code != serving.InvalidArgument {
			t.Errorf("%q: %v", value, err)
		}
	})
}
