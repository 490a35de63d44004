package admin

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"net"
	"net/http"

	"github.com/shoalserve/shoal/internal/auth"
	"github.com/shoalserve/shoal/internal/front/problem"
	"github.com/shoalserve/shoal/internal/serving"
)

// identityKey finds who sent a request in its context.
type identityKey struct{}

// identityOf is who sent a request that was let in.
func identityOf(r *http.Request) *auth.Identity {
	return r.Context().Value(identityKey{}).(*auth.Identity)
}

// allowed is for those that need no credential of Auth's, who may do everything.
var allowed = auth.Grant{Scopes: []auth.Scope{auth.Admin}}

// token is the one of Options.Token, or one that took its place.
type token struct {
	text string         // empty for none
	who  *auth.Identity // whoever brings it
}

// SetToken puts a token in the place of Options.Token, empty for none. What was opened
// with the old one ends, as with the credentials of Auth.
func (f *Front) SetToken(text string) {
	old := f.token.Swap(&token{text, auth.NewIdentity("token", "token", allowed)})
	if old != nil {
		old.who.Revoke()
	}
}

// peerKey finds the identity of a Unix socket's other end in a request's context.
type peerKey struct{}

// withPeer is a server's ConnContext: Unix sockets are guarded by their mode, which
// says who may connect. Between its making and its mode a socket may be open to
// others: they are strangers, who need a credential.
func withPeer(ctx context.Context, c net.Conn) context.Context {
	if c.LocalAddr().Network() != "unix" {
		return ctx
	}
	name, owner := peer(c)
	if !owner {
		return ctx
	}
	return context.WithValue(ctx, peerKey{}, auth.NewIdentity("socket", name, allowed))
}

// identify returns who sent a request.
func (f *Front) identify(r *http.Request) (*auth.Identity, error) {
	if peer, ok := r.Context().Value(peerKey{}).(*auth.Identity); ok {
		return peer, nil
	}
	if len(r.Header["Authorization"]) > 1 {
		return nil, auth.Invalid("send one header Authorization: which of several counts is not said")
	}
	known := f.token.Load()
	if known.isIn(r) {
		return known.who, nil
	}
	if f.opts.Auth != nil {
		return f.opts.Auth.Request(r)
	}
	switch {
	case known.text == "":
		return nil, auth.Missing("this server has no token, so it is only reached by its Unix socket")
	case r.Header.Get("Authorization") == "":
		return nil, auth.Missing("this server wants a token: send Authorization: Bearer TOKEN")
	}
	return nil, auth.Invalid("the token is not this server's")
}

// isIn compares the token of a request in constant time. Hashes hide its length.
func (t *token) isIn(r *http.Request) bool {
	brought, ok := auth.Bearer([]byte(r.Header.Get("Authorization")))
	given, want := sha256.Sum256(brought), sha256.Sum256([]byte(t.text))
	return subtle.ConstantTimeCompare(given[:], want[:]) == 1 && ok && t.text != ""
}

// deny answers a request that is not let in.
func (f *Front) deny(w http.ResponseWriter, r *http.Request, err error) {
	if denial, ok := errors.AsType[*auth.Denial](err); ok {
		w.Header().Set("WWW-Authenticate", denial.Challenge())
		if r.ContentLength != 0 && r.ProtoMajor == 1 { // else net/http would wait for the body first
			w.Header().Set("Connection", "close")
		}
		f.opts.Denied(denial.Reason)
	}
	f.opts.Logger.Debug("an admin call was denied", "client", r.RemoteAddr, "method", r.Method, "path", r.URL.Path, "error", err)
	f.writeProblem(w, r, problem.Of(err))
}

// seesTraceback reports whether somebody is shown where in a model a query failed:
// who may deploy is, and others where the backend's config says so, as over HTTP.
func (f *Front) seesTraceback(who *auth.Identity, c *serving.Call) bool {
	return who.May(auth.Deploy) || (c.Backend != nil && c.Backend.Config().ExposeTraceback)
}

// callerOf is the name that a query's caller has for others; empty for the owner of
// the server, who has no other name than the socket or the token.
func callerOf(who *auth.Identity) string {
	if who.Kind == "token" || who.Kind == "socket" {
		return ""
	}
	return who.Name
}
