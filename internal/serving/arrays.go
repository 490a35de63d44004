package serving

import (
	"bytes"
	"encoding/json"
	"iter"
	"net/http"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/shoalserve/shoal/internal/tensor"
)

// decode makes the call a row if its method takes arrays, so that a query which is
// none of the model's is refused before it is in anybody's batch. What a Python
// handle pickled stays as it is: only Python can read it.
func decode(of Instance[*Call, Response], backend string, c *Call) error {
	if strings.IndexByte(c.Method, 0) >= 0 {
		// Keys of rows begin like that; they must not meet.
		return Errorf(InvalidArgument, "a method's name cannot hold a zero byte")
	}
	if !utf8.ValidString(c.Method) {
		return Errorf(InvalidArgument, "a method's name must be UTF-8, not %q", c.Method)
	}
	signature := arrays(of, c.Method)
	if signature == nil || (c.Request != nil && len(c.Request.Body) == 0) {
		if err := c.Request.CheckBody(); err != nil {
			return err
		}
	}
	if signature == nil {
		return nil
	}
	row, err := decodeRow(signature, c)
	if err != nil {
		if err := c.Request.CheckBody(); err != nil {
			return err // which knows line and column
		}
		return Errorf(InvalidArgument, "backend %q cannot take this: %v", backend, err)
	}
	c.row = row
	return nil
}

// Arrays implements [ArrayTaker].
func (p CallPool) Arrays(method string) *tensor.Signature { return arrays(*p.newest.Load(), method) }

// arrays is what the method takes; nil if it takes calls as they are.
func arrays(of Instance[*Call, Response], method string) *tensor.Signature {
	if taker, ok := of.(ArrayTaker); ok {
		return taker.Arrays(method)
	}
	return nil
}

func decodeRow(s *tensor.Signature, c *Call) (*tensor.Row, error) {
	switch r := c.Request; {
	case r != nil:
		return s.DecodeRequest(r.Get("Content-Type"), r.Target, r.Body)
	case c.Args.isJSON():
		return s.DecodeArgs(c.Args.Payload)
	}
	return nil, nil
}

// isJSON reports whether the head says so. A head that cannot be read is left to
// the model's side, which says what is wrong with it.
func (a Args) isJSON() bool {
	if len(a.Head) == 0 || string(a.Head) == `{"encoding":"json"}` {
		return len(a.Head) > 0
	}
	var head struct {
		Encoding string `json:"encoding"`
	}
	return bytes.Contains(a.Head, []byte("json")) && json.Unmarshal(a.Head, &head) == nil && head.Encoding == "json"
}

// releaseRow gives the row back. Nobody reads it any more: the call never left
// for a replica, or its batch is completed.
func (c *Call) releaseRow() {
	if c.row != nil {
		c.row.Release()
		c.row = nil
	}
}

// npyType is the header of an answer in .npy, shared by all.
var npyType = http.Header{"Content-Type": {tensor.NPY}}

// largeItem is the size in bytes from which an answer is written as JSON in a
// goroutine of its own: the one that reads a worker's answers has others to read.
const largeItem = 16 << 10

// answerItem writes an answer that is an array and delivers it.
func (c *Call) answerItem() {
	npy := c.Request != nil && acceptsNPY(c.Request.Values("Accept"))
	if item := c.Response.Item; item.Size() >= largeItem && !npy {
		c.Response.Item = item.Clone()
		c.writing.Go(func() { // ends with the text; Close waits for it
			c.writeItem(npy)
			c.finish()
		})
		return
	}
	c.writeItem(npy)
	c.finish()
}

// writeItem writes an answer that is an array: in .npy if the client asked for it, else
// in JSON.
func (c *Call) writeItem(npy bool) {
	item := c.Response.Item
	c.Response = Response{}
	if npy {
		body, err := item.AppendNPY(nil)
		if err != nil {
			c.Err = Errorf(InvalidArgument, "the answer cannot be written as %s: %v", tensor.NPY, err)
			return
		}
		c.Response = Response{Format: Full, Header: npyType, Body: body}
		return
	}
	body, err := item.AppendJSON(nil)
	if err != nil {
		c.Err = Errorf(Internal, "the answer cannot be written: %v", err)
		return
	}
	c.Response = Response{Format: JSON, Body: body}
}

// acceptsNPY reports whether a client names .npy among what it accepts.
func acceptsNPY(accept iter.Seq[string]) bool {
	for line := range accept {
		for option := range strings.SplitSeq(line, ",") {
			media, parameters, _ := strings.Cut(option, ";")
			if strings.EqualFold(strings.TrimSpace(media), tensor.NPY) {
				return !refused(parameters)
			}
		}
	}
	return false
}

// refused reports whether the parameters of a media range weigh it with 0.
func refused(parameters string) bool {
	for p := range strings.SplitSeq(parameters, ";") {
		name, value, _ := strings.Cut(strings.TrimSpace(p), "=")
		if strings.EqualFold(name, "q") {
			weight, err := strconv.ParseFloat(value, 64)
			return err == nil && weight == 0
		}
	}
	return false
}
