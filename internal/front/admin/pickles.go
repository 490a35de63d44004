package admin

import (
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
