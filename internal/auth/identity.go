package auth

import (
	"crypto/tls"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// Scope is a kind of thing that a credential allows.
type Scope string

// The scopes. Admin holds all others.
const (
	Query   Scope = "query"   // ask endpoints
	Deploy  Scope = "deploy"  // change what is deployed, which runs code
	Admin   Scope = "admin"   // everything, also logs
	Metrics Scope = "metrics" // read /metrics
)

// Scopes are all scopes.
var Scopes = []Scope{Query, Deploy, Admin, Metrics}

// Grant is what a credential allows.
type Grant struct {
	Scopes []Scope `json:"scopes"`
	// Endpoints restricts queries to these endpoints; nil means all.
	Endpoints []string `json:"endpoints"`
}

// checkEndpoints refuses an empty list: whoever took the last name out of it did not
// mean to allow all.
func checkEndpoints(names []string) error {
	if names != nil && len(names) == 0 {
		return errors.New("endpoints is empty; name at least one, or leave it out to allow all")
	}
	return nil
}

func (g Grant) check() error {
	if len(g.Scopes) == 0 {
		return fmt.Errorf("scopes are missing: at least one of %s", listScopes())
	}
	for _, s := range g.Scopes {
		if !slices.Contains(Scopes, s) {
			return fmt.Errorf("%q is no scope; there are %s", s, listScopes())
		}
	}
	return checkEndpoints(g.Endpoints)
}

func listScopes() string {
	texts := make([]string, len(Scopes))
	for i, s := range Scopes {
		texts[i] = string(s)
	}
	return strings.Join(texts, ", ")
}

// Identity is who a request comes from. It does not change, but can end.
type Identity struct {
	// Name is what logs, metrics and fairness call the caller.
	Name string
	// Kind is how he showed who he is: "key", "jwt", "certificate", "token" or "socket".
	Kind string

	grant   Grant
	expires time.Time // zero: never
	revoked *atomic.Bool
}

// NewIdentity returns an identity that never ends.
func NewIdentity(kind, name string, grant Grant) *Identity {
	return &Identity{Name: name, Kind: kind, grant: grant, revoked: new(atomic.Bool)}
}

// May reports whether the identity has one of the scopes, or Admin.
func (i *Identity) May(scopes ...Scope) bool {
	for _, s := range i.grant.Scopes {
		if s == Admin || slices.Contains(scopes, s) {
			return true
		}
	}
	return false
}

// Reaches reports whether the identity may ask an endpoint.
func (i *Identity) Reaches(endpoint string) bool {
	return i.grant.Endpoints == nil || slices.Contains(i.grant.Endpoints, endpoint)
}

// Ended reports whether the identity is void by now: its token has expired, or
// its credential was taken away. Whoever keeps a connection open asks again.
func (i *Identity) Ended(now time.Time) bool {
	return i.revoked.Load() || (!i.expires.IsZero() && !now.Before(i.expires))
}

// until returns the same identity, which ends at a moment at the latest. To take it
// away takes away both.
func (i *Identity) until(end time.Time) *Identity {
	limited := *i
	limited.expires = end
	return &limited
}

// Revoke ends the identity.
func (i *Identity) Revoke() { i.revoked.Store(true) }

// Ends reports whether the identity can end.
func (i *Identity) Ends() bool { return i.Kind != "socket" }

// String names the identity for logs.
func (i *Identity) String() string { return i.Kind + ":" + i.Name }

// maxName is the longest name, in bytes, that is taken from a token or certificate.
const maxName = 128

// isName reports whether a name is printable ASCII, fit for logs and headers.
func isName(name string) bool {
	return name != "" && len(name) <= maxName && !strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r > '~' })
}

// Certificate is a client certificate that is known.
type Certificate struct {
	Grant
	// Subject is the certificate's common name, or one of its alternative names:
	// DNS name, URI or e-mail address.
	Subject string `json:"subject"`
}

// certificateEnd is when a verified certificate, or one of those that vouch for it, is over.
func certificateEnd(state *tls.ConnectionState) time.Time {
	end := state.VerifiedChains[0][0].NotAfter
	for _, c := range state.VerifiedChains[0] {
		if c.NotAfter.Before(end) {
			end = c.NotAfter
		}
	}
	return end
}

// certificateNames are the names that a verified certificate is known by.
func certificateNames(state *tls.ConnectionState) []string {
	if state == nil || len(state.VerifiedChains) == 0 {
		return nil // a certificate that nobody vouches for says nothing
	}
	leaf := state.VerifiedChains[0][0]
	names := append(slices.Clone(leaf.DNSNames), leaf.EmailAddresses...)
	for _, u := range leaf.URIs {
		names = append(names, u.String())
	}
	if leaf.Subject.CommonName != "" {
		names = append(names, leaf.Subject.CommonName)
	}
	return names
}
