package shoal

import (
	"crypto/tls"
	"log/slog"

	"github.com/shoalserve/shoal/internal/auth"
	"github.com/shoalserve/shoal/internal/secure"
)

// AuthConfig is which credentials an [Auth] takes: API keys by their names, JWTs of
// issuers, and client certificates. It is what the section auth of a config file says,
// with the same names; docs/security.md explains it.
type AuthConfig = auth.Config

// Parts of an [AuthConfig].
type (
	// Key is an API key: its digest, as [NewKey] or "shoal key new" makes it, or a
	// file that holds it.
	Key = auth.Key
	// Issuer is somebody whose JWTs are taken.
	Issuer = auth.Issuer
	// Certificate is a client certificate that is known; it takes TLSFiles.ClientCA.
	Certificate = auth.Certificate
	// Grant is what a credential allows.
	Grant = auth.Grant
	// Scope is a kind of thing that a credential allows.
	Scope = auth.Scope
)

// Scopes. An App has no admin address, so that these are all that matter here.
const (
	ScopeQuery   = auth.Query   // to ask endpoints
	ScopeMetrics = auth.Metrics // to read /metrics
	ScopeAdmin   = auth.Admin   // both
)

// NewKey returns a fresh API key and its digest, which is Key.SHA256.
func NewKey() (key, sha256 string) { return auth.NewKey() }

// Auth knows the credentials that an App takes. It may be used by any goroutine.
type Auth struct{ known *auth.Authenticator }

// NewAuth returns an Auth for Options.Auth, to be closed when its App is. An error says
// what is wrong with the config, and where. What issuers do later is told in log,
// which may be nil.
func NewAuth(config AuthConfig, log *slog.Logger) (*Auth, error) {
	known, err := auth.New(config, auth.Options{Logger: log})
	if err != nil {
		return nil, err
	}
	return &Auth{known}, nil
}

// Reload puts a config in the place of the one in force, and reads the files that it
// names again. If it returns an error, nothing has changed.
func (a *Auth) Reload(config AuthConfig) error { return a.authenticator().Reload(config) }

// Close ends the fetching of issuers' keys.
func (a *Auth) Close() { a.known.Close() }

// authenticator panics for an Auth that NewAuth did not make: without credentials it
// could only let in everybody, which nobody who writes Options{Auth: …} wants.
func (a *Auth) authenticator() *auth.Authenticator {
	if a == nil {
		return nil
	}
	if a.known == nil {
		panic("shoal: Options.Auth must be made by NewAuth: this one knows no credentials")
	}
	return a.known
}

// TLSFiles are where a certificate is, and how clients are to show theirs: what the
// section tls of a config file says, with the same names.
type TLSFiles = secure.Files

// TLS has a certificate that is read again when its files change.
type TLS struct{ source *secure.Source }

// config is for an HTTP front; it panics for a TLS that OpenTLS did not make.
func (t *TLS) config() *tls.Config {
	if t == nil {
		return nil
	}
	if t.source == nil {
		panic("shoal: Options.TLS must be made by OpenTLS: this one has no certificate")
	}
	return t.source.Config("h2", "http/1.1")
}

// OpenTLS reads the files for Options.TLS. An error says what is wrong with which. A
// change that cannot be used is told in log, which may be nil, and the old
// certificate stays.
func OpenTLS(files TLSFiles, log *slog.Logger) (*TLS, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	source, err := secure.Open(files, log)
	if err != nil {
		return nil, err
	}
	return &TLS{source}, nil
}
