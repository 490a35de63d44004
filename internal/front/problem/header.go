package problem

import (
	"net/http"
	"slices"

	"golang.org/x/net/http/httpguts"
)

// hopByHop are headers that belong to a connection, and those that say how a
// body is framed: the server's matter, not the model's.
var hopByHop = []string{
	"Connection", "Content-Length", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Proxy-Connection", "Te",
	"Trailer", "Transfer-Encoding", "Upgrade",
}

// Settable reports whether a model may set a header on its response.
func Settable(name string, values []string) bool {
	if !httpguts.ValidHeaderFieldName(name) || slices.Contains(hopByHop, http.CanonicalHeaderKey(name)) {
		return false
	}
	return !slices.ContainsFunc(values, func(v string) bool { return !httpguts.ValidHeaderFieldValue(v) })
}
