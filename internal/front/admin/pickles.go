package admin

import (
	"encoding/json"

	"github.com/shoalserve/shoal/internal/auth"
	"github.com/shoalserve/shoal/internal/serving"
)

// This file is about pickles. To read one runs code that it names, so that whoever
// may send a pickle may do what the worker may.

// encodingsHeader tells a link's client, where not all are taken, how queries may
// be encoded.
const encodingsHeader = "Shoal-Encodings"

var (
	errPickle = serving.Errorf(serving.Forbidden, "this server takes no pickles (allow_pickle is false): deploy from a file, "+
		"with \"shoal serve FILE.py:NAME\", a config file or a source of kind \"file\"")
	errPickledQuery = serving.Errorf(serving.Forbidden, "this link takes no pickled queries, which run code in the model's process: "+
		"send them as JSON, or with a credential of the scope deploy where the server allows pickles")
)

// mustBePlain reports whether somebody's queries must be JSON: a pickle is code, and
// who may only ask may not bring code.
func (f *Front) mustBePlain(who *auth.Identity) bool { return f.opts.NoPickle || !who.May(auth.Deploy) }

// plainHead returns an api head whose query is JSON as this server has read it. The
// model's side must not read it in another way, such as with two keys that differ
// in case alone, and find a pickle.
func plainHead(head []byte) (plain []byte, ok bool) {
	var h map[string]json.RawMessage
	if json.Unmarshal(head, &h) != nil || string(h["encoding"]) != `"json"` {
		return nil, false
	}
	plain, err := json.Marshal(h)
	return plain, err == nil
}
