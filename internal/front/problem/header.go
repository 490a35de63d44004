package problem

import (
	"net/http"
	"slices"

	"golang.org/x/net/http/httpguts"
)

// reserved are headers that are not the model's matter but the server's: those
// of a connection, those that say how a body is framed, and Shoal's own.
var reserved = []string{
	"Connection", "Content-Length", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Proxy-Connection", "Te",
	"Trailer", "Transfer-Encoding", "Upgrade", "X-Request-Id", "Shoal-Backend",
}

// AddHeader adds the headers that a model chose to those of an answer, less
// those that it may not choose. It never writes to the model's own values.
func AddHeader(h, chosen http.Header) {
	for name, values := range chosen {
		key := http.CanonicalHeaderKey(name)
		if settable(key, values) {
			h[key] = append(slices.Clip(h[key]), values...)
		}
	}
}

// settable reports whether a model may set a header.
func settable(key string, values []string) bool {
	if !httpguts.ValidHeaderFieldName(key) || slices.Contains(reserved, key) {
		return false
	}
	return !slices.ContainsFunc(values, func(v string) bool { return !httpguts.ValidHeaderFieldValue(v) })
}
