// Package auth tells who sends a request and what he may do: by API keys, by
// JWTs of an OpenID Connect issuer, and by client certificates.
package auth
