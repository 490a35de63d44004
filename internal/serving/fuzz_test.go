package serving

import (
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
)

// FuzzDecodeConfig checks that a config in JSON is refused with a reason, or is one
// that comes back when it is written and read again.
func FuzzDecodeConfig(f *testing.F) {
	for _, seed := range []string{
		"", "{}", "null", "[]", `{"max_batch_size":4}`, `{"max_batch_sise":4}`, `{"max_batch_size":0}`, `{"max_batch_size":1e400}`,
		`{"timeout":"5s","latency_slo":0.05,"env":{"A":"b"}}`, `{"max_queued_bytes":"256MiB"}`, `{"max_queued_bytes":-1}`,
		`{"env":{"A=":"b"}}`, `{"env":null}`, `{"timeout":1e300}`, `{"timeout":"-5s"}`, `{"num_replicas":1001}`, `{"env":{"":1}}`,
		"{\"\x00\":1}", `{"a\"b":1}`, `{"Max_Batch_Size":1}`, `{"timeout":{}}`, `{"batch_wait_timeout":"1s","latency_slo":"1s"}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		c, err := DecodeConfig(Config{}, raw)
		if err != nil {
			if own, ok := errors.AsType[*Error](err); !ok || own.Code != InvalidArgument || own.Message == "" {
				t.Errorf("%q: %#v", raw, err)
			}
			return
		}
		if err := c.Validate(); err != nil {
			t.Fatalf("%q was taken, and is %v", raw, err)
		}
		whole := c.withDefaults(true)
		text, err := json.Marshal(whole)
		if err != nil {
			t.Fatal(err)
		}
		again, err := DecodeConfig(Config{}, text)
		if err != nil {
			if strings.Contains(err.Error(), "latency_slo") {
				return // the default of timeout is shorter than it
			}
			t.Fatalf("%q became %s: %v", raw, text, err)
		}
		if second, _ := json.Marshal(again.withDefaults(true)); string(second) != string(text) {
			t.Errorf("%s became %s", text, second)
		}
	})
}

// FuzzEndpointSpec checks that what is taken as an endpoint can be served and probed.
func FuzzEndpointSpec(f *testing.F) {
	for _, seed := range []string{
		`{"backend":"a"}`, `{"backend":"a","route":"/a","methods":["get","POST","GET"]}`, `{"route":"a"}`, `{"route":"/a?b"}`, `{"route":"/%2e"}`,
		`{"route":"/-/x"}`, `{"route":"/openapi.json"}`, `{"methods":["TRACE"]}`, `{"example":{"json":1,"text":"x"}}`, `{"example":{"query":{"a":[1]},"headers":{"A b":"c"}}}`,
		`{"route":"//x"}`, `{"route":"/\u0000"}`, `{"route":"/ü","example":{"method":"post","json":{"a":1}}}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		var s EndpointSpec
		if json.Unmarshal(raw, &s) != nil {
			return
		}
		if err := s.Check(); err != nil {
			if Describe(err).Code != InvalidArgument {
				t.Errorf("%s: %v", raw, err)
			}
			return
		}
		if len(s.Methods) == 0 || !slices.IsSorted(s.Methods) || (s.Route != "" && s.Route[0] != '/') {
			t.Errorf("%s: %+v", raw, s)
		}
		if s.Example != nil {
			r := s.Example.request(s.Route, s.Methods)
			if _, err := http.NewRequest(r.Method, "http://host"+r.Target, nil); err != nil {
				t.Errorf("%s: its example cannot be sent: %v", raw, err)
			}
		}
	})
}

// FuzzWebHead checks that the headers in a web head are read as they were written.
func FuzzWebHead(f *testing.F) {
	f.Add("GET", "/x?y=1", "id", "Content-Type", "text/plain", "a: b")
	f.Add("", "", "", "", "", "")
	f.Add("POST", "/", "1", "X", ": ", "")
	f.Fuzz(func(t *testing.T, method, target, id, name, first, second string) {
		for _, part := range []string{method, target, id, name, first, second} {
			if strings.ContainsAny(part, "\n") {
				return // no front lets one in
			}
		}
		if name == "" || name == "Host" || strings.Contains(name, ":") || strings.Contains(name, " ") {
			return
		}
		r := &Request{Method: method, Target: target, ID: id, Host: "h", Header: http.Header{name: {first, second}}}
		read := &Request{Head: r.AppendHead(nil)}
		if got := slices.Collect(read.Values(name)); !slices.Equal(got, []string{first, second}) || read.Get(name) != first {
			t.Errorf("%q: %q was read as %q", name, []string{first, second}, got)
		}
		if got := read.Headers(); len(got) != 1 || len(got[name]) != 2 {
			t.Errorf("headers %v", got)
		}
	})
}
