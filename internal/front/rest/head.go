package rest

import (
	"bytes"
	"unsafe"

	"github.com/shoalserve/shoal/internal/serving"
)

// head is the head of a plain request: HTTP/1.1, a known method, a path without
// escapes, one host, a body of a stated length or none, and nothing that asks for
// more than an answer. It points into the bytes that it was parsed from.
//
// The parser takes less than net/http does and never guesses: whatever it does not
// take goes to net/http, so that there is one reading of what is unusual.
type head struct {
	size   int // in bytes, up to and with the empty line
	method string
	target []byte
	path   []byte // target up to the question mark
	host   []byte
	length int64 // of the body

	fields []field // all headers but the host
	// What the front itself looks at, the first value of each; nil where there is none.
	contentType, requestID, timeout, priority, caller, callMethod, shardKey, authorization []byte

	requestIDs, authorizations int
}

// field is one header.
type field struct{ name, value []byte }

// maxFields is the most headers that a plain request has.
const maxFields = 64

// headEnd returns the size of the head that buf begins with, or 0 if it is not
// whole. Bytes before from were looked at before. It reports false for what no
// plain head begins with.
func headEnd(buf []byte, from int) (size int, plain bool) {
	for {
		i := bytes.IndexByte(buf[from:], '\n')
		if i < 0 {
			return 0, true
		}
		at := from + i
		if at < 2 || buf[at-1] != '\r' {
			return 0, false
		}
		if buf[at-2] == '\n' {
			return at + 1, true
		}
		from = at + 1
	}
}

// parse reads the head that buf is. It reports false if it is not plain.
func (h *head) parse(buf []byte) bool {
	*h = head{size: len(buf), fields: h.fields[:0]}
	line, rest := cutLine(buf)
	if !h.parseRequestLine(line) {
		return false
	}
	for {
		line, rest = cutLine(rest)
		if len(line) == 0 {
			return h.host != nil && len(rest) == 0
		}
		name, value, ok := parseField(line)
		if !ok || len(h.fields) == maxFields || !h.take(name, value) {
			return false
		}
	}
}

// cutLine cuts the first line off what [headEnd] found to consist of lines.
func cutLine(buf []byte) (line, rest []byte) {
	i := bytes.IndexByte(buf, '\n')
	if i < 1 {
		return nil, buf
	}
	return buf[:i-1], buf[i+1:]
}

func (h *head) parseRequestLine(line []byte) bool {
	method, rest, _ := bytes.Cut(line, space)
	target, protocol, _ := bytes.Cut(rest, space)
	if string(protocol) != "HTTP/1.1" || len(target) == 0 || target[0] != '/' || (len(target) > 1 && target[1] == '/') {
		return false
	}
	h.method = serving.KnownMethod(method)
	h.target, h.path = target, target
	for i, c := range target {
		switch {
		case c <= ' ' || c > '~' || c == '#':
			return false
		case c == '?' && len(h.path) == len(target):
			h.path = target[:i]
		case c == '%' && len(h.path) == len(target):
			return false
		}
	}
	return h.method != ""
}

var space = []byte{' '}

// parseField reads a header's line: a token, a colon, a value of visible ASCII.
func parseField(line []byte) (name, value []byte, ok bool) {
	colon := bytes.IndexByte(line, ':')
	if colon < 1 {
		return nil, nil, false
	}
	name, value = line[:colon], line[colon+1:]
	for _, c := range name {
		if !isToken[c] {
			return nil, nil, false
		}
	}
	for len(value) > 0 && (value[0] == ' ' || value[0] == '\t') {
		value = value[1:]
	}
	for len(value) > 0 && (value[len(value)-1] == ' ' || value[len(value)-1] == '\t') {
		value = value[:len(value)-1]
	}
	for _, c := range value {
		if (c < ' ' && c != '\t') || c > '~' {
			return nil, nil, false
		}
	}
	return name, value, true
}

// isToken tells the characters of a token, RFC 9110 section 5.6.2.
var isToken = func() (is [256]bool) {
	for _, c := range []byte("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ") {
		is[c] = true
	}
	return is
}()

// take takes a header in. It reports false for one that a plain request has not.
func (h *head) take(name, value []byte) bool {
	switch len(name) {
	case len("Host"):
		if isName(name, "host") {
			ok := h.host == nil && isHost(value)
			h.host = value
			return ok
		}
	case len("Expect"):
		if isName(name, "expect") || isName(name, "pragma") { // net/http makes Cache-Control of Pragma
			return false
		}
	case len("Upgrade"):
		if isName(name, "upgrade") || isName(name, "trailer") {
			return false
		}
	case len("Connection"):
		if isName(name, "connection") && !isName(value, "keep-alive") {
			return false
		}
	case len("Content-Type"):
		switch {
		case isName(name, "content-type"):
			keepFirst(&h.contentType, value)
		case isName(name, "x-request-id"):
			keepFirst(&h.requestID, value)
			h.requestIDs++
		case isName(name, "shoal-caller"):
			keepFirst(&h.caller, value)
		}
	case len("Shoal-Timeout"):
		switch {
		case isName(name, "shoal-timeout"):
			keepFirst(&h.timeout, value)
		case isName(name, "authorization"):
			keepFirst(&h.authorization, value)
			h.authorizations++
		}
	case len("Content-Length"):
		if isName(name, "content-length") && !h.takeLength(value) {
			return false
		}
		if isName(name, "shoal-priority") {
			keepFirst(&h.priority, value)
		}
	case len("Transfer-Encoding"):
		switch {
		case isName(name, "transfer-encoding"):
			return false
		case isName(name, "x-serve-shard-key"):
			keepFirst(&h.shardKey, value)
		}
	case len("X-Serve-Call-Method"):
		if isName(name, "x-serve-call-method") {
			keepFirst(&h.callMethod, value)
		}
	}
	h.fields = append(h.fields, field{name, value})
	return true
}

func keepFirst(to *[]byte, value []byte) {
	if *to == nil {
		*to = value[:len(value):len(value)]
	}
}

// isName reports whether a name or token is one that is given in lower case.
func isName(name []byte, lower string) bool {
	if len(name) != len(lower) {
		return false
	}
	for i, c := range name {
		if c >= 'A' && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}

// isHost reports whether a host is made of letters, digits and what addresses need.
func isHost(host []byte) bool {
	for _, c := range host {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		case c == '.', c == '-', c == '_', c == ':', c == '[', c == ']':
		default:
			return false
		}
	}
	return len(host) > 0
}

// takeLength takes the length of the body, once, in plain digits.
func (h *head) takeLength(value []byte) bool {
	const most = 15 // digits: more than any body, and no overflow
	if len(value) == 0 || len(value) > most || (value[0] == '0' && len(value) > 1) {
		return false
	}
	for _, f := range h.fields {
		if isName(f.name, "content-length") {
			return false
		}
	}
	for _, c := range value {
		if c < '0' || c > '9' {
			return false
		}
		h.length = 10*h.length + int64(c-'0')
	}
	return true
}

// request makes the query's request of the head. All of it lies in one block of
// memory that is never used again, since shadows and models keep what they like.
func (h *head) request(r *serving.Request) {
	n := len(h.method) + len(h.target) + maxNewID + len("Host: ") + len(h.host) + 4
	if h.requestID != nil {
		n += len(h.requestID)
	}
	for _, f := range h.fields {
		n += len(f.name) + len(f.value) + 3
	}
	buf := make([]byte, 0, n)
	buf = append(append(buf, h.method...), ' ')
	target := len(buf)
	buf = append(append(buf, h.target...), '\n')
	id := len(buf)
	if h.requestIDs == 1 && isRequestID(unsafeString(h.requestID)) {
		buf = append(buf, h.requestID...)
	} else {
		buf = appendNewID(buf)
	}
	buf = append(append(buf, '\n'), "Host: "...)
	host := len(buf)
	buf = append(append(buf, h.host...), '\n')
	r.Method, r.Head = h.method, buf
	r.Target, r.ID, r.Host = unsafeString(buf[target:id-1]), unsafeString(buf[id:host-len("\nHost: ")]), unsafeString(buf[host:len(buf)-1])
	for _, f := range h.fields {
		buf = append(append(appendCanonical(buf, f.name), ": "...), f.value...)
		buf = append(buf, '\n')
	}
	r.Head = buf
}

// appendCanonical appends a header's name as [http.CanonicalHeaderKey] writes it.
func appendCanonical(buf, name []byte) []byte {
	first := true
	for _, c := range name {
		switch {
		case first && c >= 'a' && c <= 'z':
			c -= 'a' - 'A'
		case !first && c >= 'A' && c <= 'Z':
			c += 'a' - 'A'
		}
		first = c == '-'
		buf = append(buf, c)
	}
	return buf
}

// unsafeString shows bytes that do not change, while the string is in use, as one.
func unsafeString(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }
