package admin

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/shoalserve/shoal/internal/auth"
	"github.com/shoalserve/shoal/internal/front/door"
	"github.com/shoalserve/shoal/internal/serving"
)

const (
	// maxBody bounds the JSON bodies of all calls but queries.
	maxBody = 16 << 20
	// maxQuery bounds the body of a query.
	maxQuery = 256 << 20
	// firstRoom is how much room a body gets before anything of it has come.
	firstRoom = 4 << 10
	// readTimeout and writeTimeout bound each read of a body and each write of
	// an answer, not the whole: slow is allowed, stuck is not.
	readTimeout  = 30 * time.Second
	writeTimeout = 30 * time.Second
	// denialTimeout is how long the rest of a request has that was denied.
	denialTimeout = 500 * time.Millisecond
	// writeChunk is how much of an answer must go out within writeTimeout.
	writeChunk = 1 << 20
)

// pacedReader gives each read of a body readTimeout.
type pacedReader struct {
	body    io.Reader
	control *http.ResponseController
}

func (p *pacedReader) Read(b []byte) (int, error) {
	_ = p.control.SetReadDeadline(time.Now().Add(readTimeout)) // not every ResponseWriter has deadlines
	return p.body.Read(b)
}

// body returns the request's body with a limit on its size and pace. done must
// be called after reading: a deadline left behind would end the request.
func body(w http.ResponseWriter, r *http.Request, limit int64) (paced io.Reader, done func()) {
	control := http.NewResponseController(w)
	return &pacedReader{http.MaxBytesReader(w, r.Body, limit), control},
		func() { _ = control.SetReadDeadline(time.Time{}) }
}

// readBody reads a whole body. It counts as arriving until done is called.
func (f *Front) readBody(w http.ResponseWriter, r *http.Request, limit int64) (raw []byte, done func(), err error) {
	paced, undo := body(w, r, limit)
	defer undo()
	arriving := f.arrivingOf(identityOf(r))
	raw, held, err := arriving.Read(paced, int(limit)+1, firstRoom)
	if _, full := errors.AsType[*serving.Error](err); full {
		f.opts.Refused("inflight_bytes")
	} else {
		err = bodyError(err)
	}
	return raw, func() { arriving.Give(held) }, err
}

// arrivingOf counts what comes from somebody.
func (f *Front) arrivingOf(who *auth.Identity) *door.Bytes {
	if who.Kind == "socket" {
		return f.owners
	}
	return f.arriving
}

// bodyError is the error for the client whose body could not be read.
func bodyError(err error) error {
	if err == nil {
		return nil
	}
	if tooLarge, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return serving.Errorf(serving.TooLarge, "the body is larger than %d bytes", tooLarge.Limit)
	}
	return serving.Errorf(serving.InvalidArgument, "reading the body: %v", err)
}

// decode reads a JSON body into v and refuses fields that v does not have.
func (f *Front) decode(w http.ResponseWriter, r *http.Request, limit int64, v any) error {
	raw, done, err := f.readBody(w, r, limit)
	defer done()
	if err != nil {
		return err
	}
	return decodeStrict(raw, v)
}

func decodeStrict(raw []byte, v any) error {
	if len(bytes.TrimSpace(raw)) == 0 {
		return serving.Errorf(serving.InvalidArgument, "the body is empty; a JSON object is wanted")
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return serving.Errorf(serving.InvalidArgument, "the body cannot be used: %s", explain(err, d.InputOffset()))
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return serving.Errorf(serving.InvalidArgument, "the body goes on after the JSON value, at byte %d", d.InputOffset())
	}
	return nil
}

// explain says where a JSON text is wrong, in words without Go in them.
func explain(err error, offset int64) string {
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		return fmt.Sprintf("malformed JSON at byte %d: %v", syntax.Offset, err)
	}
	if kind, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return fmt.Sprintf("field %q at byte %d: a JSON %s does not fit", kind.Field, kind.Offset, kind.Value)
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Sprintf("malformed JSON: it ends in the middle, after byte %d", offset)
	}
	return strings.TrimPrefix(err.Error(), "json: ")
}

// writeJSON answers with a JSON value.
func (f *Front) writeJSON(w http.ResponseWriter, r *http.Request, status int, v any) {
	raw, err := json.Marshal(v)
	if err != nil {
		f.writeError(w, r, fmt.Errorf("encoding the answer: %w", err))
		return
	}
	f.writeBody(w, r, status, "application/json", append(raw, '\n'))
}

// writeBody answers with bytes. A client that is gone is no error of anybody's.
func (f *Front) writeBody(w http.ResponseWriter, r *http.Request, status int, contentType string, body []byte) {
	if contentType != "" {
		w.Header().Set("Content-Type", contentType)
	}
	w.Header().Set("Content-Length", fmt.Sprint(len(body)))
	w.WriteHeader(status)
	control := http.NewResponseController(w)
	for len(body) > 0 {
		n := min(len(body), writeChunk)
		_ = control.SetWriteDeadline(time.Now().Add(writeTimeout)) // not every ResponseWriter has deadlines
		if _, err := w.Write(body[:n]); err != nil {
			f.opts.Logger.Debug("the client did not take its answer", "method", r.Method, "path", r.URL.Path, "error", err)
			return
		}
		body = body[n:]
	}
}
