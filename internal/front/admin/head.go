package admin

import (
	"bytes"
	"encoding/json"
	"strings"

	"github.com/shoalserve/shoal/internal/serving"
)

// callerHeader tells the model who asks, as the HTTP front's queries do.
const callerHeader = "Shoal-Caller"

// maxCachedHead bounds what a link keeps of heads, in bytes.
const maxCachedHead = 4 << 10

// callHead is the head of a handle's query. The model's side must read in it what
// this server has read, neither another one of two keys that differ in case alone,
// nor what it cannot read at all; so it gets one that was written anew.
type callHead struct {
	Encoding string            `json:"encoding,omitempty"`
	Method   string            `json:"method,omitempty"`
	Headers  map[string]string `json:"headers,omitempty"`
	Buffers  []uint32          `json:"buffers,omitempty"`
}

// readHead reads what it knows of a head, the encoding first.
func readHead(raw []byte) (h callHead, err error) {
	var fields map[string]json.RawMessage
	if len(raw) > 0 {
		if err := json.Unmarshal(raw, &fields); err != nil {
			return h, badHead(err)
		}
	}
	for _, field := range []struct {
		name string
		to   any
	}{{"encoding", &h.Encoding}, {"method", &h.Method}, {"headers", &h.Headers}, {"buffers", &h.Buffers}} {
		if text, ok := fields[field.name]; ok { // a struct's keys would match in any case
			if err := json.Unmarshal(text, field.to); err != nil {
				return h, badHead(err)
			}
		}
	}
	return h, nil
}

func badHead(err error) error {
	return serving.Errorf(serving.InvalidArgument, "the head of a query cannot be read: %v", err)
}

// name has the model see who asks instead of what a client says of it.
func (h *callHead) name(caller string) {
	for name := range h.Headers {
		if strings.EqualFold(name, callerHeader) || strings.EqualFold(name, "Authorization") {
			delete(h.Headers, name)
		}
	}
	if h.Headers == nil {
		h.Headers = make(map[string]string, 1)
	}
	h.Headers[callerHeader] = caller
}

// headCache is the last head of a link's queries, most of which have the same, and
// what the model's side gets for it.
type headCache struct{ given, written []byte }

// head returns the head that the model's side gets for a client's. Those who have
// no name and may send pickles have theirs as it is.
func (l *link) head(given []byte) ([]byte, error) {
	caller := callerOf(l.who)
	if caller == "" && !l.plain {
		return given, nil
	}
	if l.lastHead.written != nil && bytes.Equal(given, l.lastHead.given) {
		return l.lastHead.written, nil
	}
	h, err := readHead(given)
	if l.plain {
		if h.Encoding != "json" {
			return nil, errPickledQuery
		}
		h.Buffers = nil
	}
	if err != nil {
		return nil, err
	}
	if caller != "" {
		h.name(caller)
	}
	written, err := json.Marshal(h)
	if err == nil && len(given) <= maxCachedHead {
		l.lastHead = headCache{bytes.Clone(given), written}
	}
	return written, err
}
