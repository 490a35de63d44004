package serving

import (
	"bytes"
	"iter"
	"net/http"
	"unsafe"
)

// A web head is a request as workers read it, "web head" in docs/protocol.md: the
// request line, the id, then a line for each header, the host among them, with
// names in canonical form.

// AppendHead appends the request's web head.
func (r *Request) AppendHead(buf []byte) []byte {
	if r.Head != nil {
		return append(buf, r.Head...)
	}
	buf = append(append(append(buf, r.Method...), ' '), r.Target...)
	buf = append(append(append(buf, '\n'), r.ID...), '\n')
	if r.Host != "" {
		buf = appendHeaderLine(buf, "Host", r.Host)
	}
	for name, values := range r.Header {
		for _, value := range values {
			buf = appendHeaderLine(buf, name, value)
		}
	}
	return buf
}

func appendHeaderLine(buf []byte, name, value string) []byte {
	buf = append(append(buf, name...), ": "...)
	return append(append(buf, value...), '\n')
}

// Get returns the first value of a header, whose name is given in canonical form.
func (r *Request) Get(name string) string {
	for value := range r.Values(name) {
		return value
	}
	return ""
}

// Values returns the values of a header, whose name is given in canonical form.
func (r *Request) Values(name string) iter.Seq[string] {
	return func(yield func(string) bool) {
		if r.Head == nil {
			for _, value := range r.Header[name] {
				if !yield(value) {
					return
				}
			}
			return
		}
		for n, value := range r.lines() {
			// Head never changes, so that a string may refer to it.
			if string(n) == name && !yield(unsafe.String(unsafe.SliceData(value), len(value))) {
				return
			}
		}
	}
}

// Headers returns all headers but the host. They must not be changed.
func (r *Request) Headers() http.Header {
	if r.Head == nil {
		return r.Header
	}
	h := make(http.Header)
	for name, value := range r.lines() {
		key := string(name)
		h[key] = append(h[key], string(value))
	}
	return h
}

// lines returns names and values of the headers in Head but the host's.
func (r *Request) lines() iter.Seq2[[]byte, []byte] {
	return func(yield func(name, value []byte) bool) {
		_, rest, _ := bytes.Cut(r.Head, newline) // the request line
		_, rest, _ = bytes.Cut(rest, newline)    // the id
		for len(rest) > 0 {
			var line []byte
			line, rest, _ = bytes.Cut(rest, newline)
			name, value, _ := bytes.Cut(line, separator)
			if string(name) != "Host" && !yield(name, value) {
				return
			}
		}
	}
}

var newline, separator = []byte{'\n'}, []byte(": ")
