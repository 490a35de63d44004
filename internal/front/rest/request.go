package rest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"unicode/utf8"

	"github.com/shoalserve/shoal/internal/front/problem"
	"github.com/shoalserve/shoal/internal/serving"
)

// maxRequestID is the longest id that is taken over from a client.
const maxRequestID = 128

// requestID returns the id that the client gave, or a new one.
func requestID(r *http.Request) string {
	if ids := r.Header["X-Request-Id"]; len(ids) == 1 && isRequestID(ids[0]) {
		return ids[0]
	}
	return string(appendNewID(make([]byte, 0, maxNewID)))
}

// maxNewID is the length of an id that the server makes.
const maxNewID = 16

func appendNewID(buf []byte) []byte {
	const digits = "0123456789abcdef"
	n := rand.Uint64()
	for range maxNewID {
		buf = append(buf, digits[n&15])
		n >>= 4
	}
	return buf
}

// isRequestID reports whether an id is safe to show in logs and headers.
func isRequestID(id string) bool {
	if id == "" || len(id) > maxRequestID {
		return false
	}
	for i := range len(id) {
		if id[i] <= ' ' || id[i] > '~' {
			return false
		}
	}
	return true
}

// body reads the request's body, as far as it is allowed. What it holds is counted
// as arriving, with the headers, which wait for it; the caller gives it back.
func (f *Front) body(w http.ResponseWriter, r *http.Request) (body []byte, held int, err error) {
	switch n := r.ContentLength; {
	case n == 0 || r.Body == http.NoBody:
		return nil, 0, nil
	case n > f.opts.MaxBodyBytes:
		return nil, 0, &http.MaxBytesError{Limit: f.opts.MaxBodyBytes}
	}
	headers := headerBytes(r.Header)
	if err := f.arriving.Take(headers); err != nil {
		return nil, 0, err
	}
	body, held, err = f.readBody(w, r)
	return body, held + headers, err
}

// headerBytes is about what the headers of a request hold.
func headerBytes(h http.Header) (n int) {
	const each = 64 // of the map and the list
	for name, values := range h {
		n += each + len(name)
		for _, value := range values {
			n += 16 + len(value)
		}
	}
	return n
}

func (f *Front) readBody(w http.ResponseWriter, r *http.Request) (body []byte, held int, err error) {
	if n := r.ContentLength; n > 0 {
		body, held, err = f.arriving.Read(r.Body, int(n), firstRoom)
		if err == nil && len(body) < int(n) {
			err = io.ErrUnexpectedEOF
		}
		return body, held, err
	}
	// Its length is not known; one byte more than is allowed would be an error.
	body, held, err = f.arriving.Read(http.MaxBytesReader(w, r.Body, f.opts.MaxBodyBytes), int(f.opts.MaxBodyBytes)+1, firstRoom)
	if cap(body) > 2*len(body) { // it may wait for long
		body = bytes.Clone(body)
	}
	return body, held, err
}

// firstRoom is how much room a body gets before anything of it has come, or little:
// whoever sends a byte and announces many must not fill the bound.
const firstRoom = 4 << 10

// jsonError says where a body is not JSON.
type jsonError struct {
	reason       string
	offset       int64
	line, column int
}

func (e *jsonError) Error() string {
	return fmt.Sprintf("the body is not JSON: %s at byte %d (line %d, column %d)", e.reason, e.offset, e.line, e.column)
}

// Unwrap makes it the caller's fault.
func (e *jsonError) Unwrap() error { return serving.Errorf(serving.InvalidArgument, "%s", e.Error()) }

// checkBody is the check of requests of any kind.
func checkBody(r *serving.Request) error { return checkJSON(r.Method, r.Get("Content-Type"), r.Body) }

// checkJSONBody is that of requests which say that they are JSON.
func checkJSONBody(r *serving.Request) error { return checkJSON(r.Method, "application/json", r.Body) }

// checkJSON refuses a body that says it is JSON and is not: one such query
// would fail every query of its batch.
func checkJSON(method, contentType string, body []byte) error {
	if contentType == "" || (len(body) == 0 && (method == http.MethodGet || method == http.MethodHead)) || !isJSON(contentType) {
		return nil
	}
	if at := problem.TooDeep(body); at >= 0 {
		return wrongAt(body, at, problem.DeepReason)
	}
	if json.Valid(body) && utf8.Valid(body) {
		return nil
	}
	return explainJSON(body)
}

func isJSON(contentType string) bool {
	if contentType == "application/json" {
		return true
	}
	media, _, _ := strings.Cut(contentType, ";")
	media = strings.ToLower(strings.TrimSpace(media))
	return media == "application/json" || strings.HasSuffix(media, "+json")
}

func explainJSON(body []byte) *jsonError {
	reason, offset := "invalid UTF-8", invalidUTF8(body)
	var value json.RawMessage
	if syntax, ok := errors.AsType[*json.SyntaxError](json.Unmarshal(body, &value)); ok {
		// The decoder counts the byte that it could not take. At the end it takes a space.
		reason, offset = syntax.Error(), max(0, int(syntax.Offset)-1)
		if strings.HasPrefix(reason, "unexpected end") || strings.HasPrefix(reason, "invalid character ' '") && body[offset] != ' ' {
			reason, offset = "unexpected end of JSON input", len(body)
		}
	}
	return wrongAt(body, offset, reason)
}

// wrongAt says what is wrong with a body, and where.
func wrongAt(body []byte, offset int, reason string) *jsonError {
	before := body[:offset]
	return &jsonError{
		reason: reason, offset: int64(offset),
		line: 1 + bytes.Count(before, []byte{'\n'}), column: len(before) - bytes.LastIndexByte(before, '\n'),
	}
}

// invalidUTF8 returns where the first byte that is not UTF-8 is.
func invalidUTF8(body []byte) int {
	for i := 0; i < len(body); {
		r, size := utf8.DecodeRune(body[i:])
		if r == utf8.RuneError && size == 1 {
			return i
		}
		i += size
	}
	return len(body)
}
