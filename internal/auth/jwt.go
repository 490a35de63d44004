package auth

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/MicahParks/jwkset"
	"github.com/MicahParks/keyfunc/v3"
	"github.com/golang-jwt/jwt/v5"
	"golang.org/x/time/rate"
)

// Issuer is somebody whose JWTs are taken.
type Issuer struct {
	// Issuer is the value of iss. Without a source of keys below, it is a URL
	// under which OpenID Connect's discovery says where the keys are.
	Issuer string `json:"issuer"`
	// Audience must be among the values of aud.
	Audience string `json:"audience"`
	// JWKSURL, JWKSFile or PublicKeyFile (PEM) is where the keys are; at most one.
	JWKSURL       string `json:"jwks_url"`
	JWKSFile      string `json:"jwks_file"`
	PublicKeyFile string `json:"public_key_file"`
	// Algorithms are those of signatures. Default RS256 and ES256. There are only
	// those with a public key.
	Algorithms []string `json:"algorithms"`
	// NameClaim holds the identity's name. Default "sub".
	NameClaim string `json:"name_claim"`
	// NamePrefix is put before that name. Where there are several issuers they need
	// one each, since two may know different people by the same name.
	NamePrefix string `json:"name_prefix"`
	// ScopeClaim holds the scopes, as a list or as a text with spaces. Default "scope".
	ScopeClaim string `json:"scope_claim"`
	// Scopes maps values of ScopeClaim to scopes. By default they have the same names.
	Scopes map[string]Scope `json:"scopes"`
	// Endpoints restricts queries to these endpoints; nil means all.
	Endpoints []string `json:"endpoints"`
}

// asymmetric are the algorithms that may be chosen. "none" and those of shared
// secrets are not among them, so that no public key can be taken for a secret.
var asymmetric = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}

// leeway is how far clocks may be apart.
const leeway = 30 * time.Second

// maxToken bounds the length of a token, in bytes.
const maxToken = 16 << 10

// issuer verifies the tokens of an Issuer.
type issuer struct {
	Issuer
	parser *jwt.Parser
	log    *slog.Logger
	client *http.Client
	silent bool                            // the keys are not fetched
	ctx    context.Context                 // ends the refreshing of keys
	keys   atomic.Pointer[keyfunc.Keyfunc] // nil: they cannot be had yet
}

func newIssuer(ctx context.Context, c Issuer, opts Options) (*issuer, error) {
	if c.Issuer == "" || c.Audience == "" {
		return nil, errors.New("issuer and audience must both be given: without them, tokens that were made for others would be taken")
	}
	if len(c.Algorithms) == 0 {
		c.Algorithms = []string{"RS256", "ES256"}
	}
	for _, a := range c.Algorithms {
		if !slices.Contains(asymmetric, a) {
			return nil, fmt.Errorf("algorithm %q is not possible; there are %s", a, strings.Join(asymmetric, ", "))
		}
	}
	for value, s := range c.Scopes {
		if !slices.Contains(Scopes, s) {
			return nil, fmt.Errorf("scopes: %q stands for %q, which is no scope; there are %s", value, s, listScopes())
		}
	}
	if err := checkEndpoints(c.Endpoints); err != nil {
		return nil, err
	}
	if c.NamePrefix != "" && !isName(c.NamePrefix) {
		return nil, fmt.Errorf("name_prefix has at most %d printable ASCII characters", maxName)
	}
	if c.NameClaim == "" {
		c.NameClaim = "sub"
	}
	if c.ScopeClaim == "" {
		c.ScopeClaim = "scope"
	}
	i := &issuer{Issuer: c, ctx: ctx, log: opts.Logger, client: opts.Client, silent: opts.offline}
	i.parser = jwt.NewParser(jwt.WithValidMethods(c.Algorithms), jwt.WithIssuer(c.Issuer), jwt.WithAudience(c.Audience),
		jwt.WithExpirationRequired(), jwt.WithLeeway(leeway), jwt.WithTimeFunc(opts.Now))
	if err := i.open(); err != nil {
		return nil, err
	}
	return i, nil
}

// open finds the keys. Those that are elsewhere are looked for again later, so that
// an issuer that is down does not keep a server from starting.
func (i *issuer) open() error {
	sources := 0
	for _, s := range []string{i.JWKSURL, i.JWKSFile, i.PublicKeyFile} {
		if s != "" {
			sources++
		}
	}
	switch {
	case sources > 1:
		return errors.New("give one of jwks_url, jwks_file and public_key_file")
	case i.JWKSFile != "":
		raw, err := os.ReadFile(i.JWKSFile)
		if err != nil {
			return fmt.Errorf("reading the keys: %w", err)
		}
		keys, err := keyfunc.NewJWKSetJSON(raw)
		if err != nil {
			return fmt.Errorf("%s is no JSON Web Key Set: %w", i.JWKSFile, err)
		}
		i.keys.Store(&keys)
		return nil
	case i.PublicKeyFile != "":
		return i.openPEM()
	}
	for _, url := range []string{i.JWKSURL, i.Issuer.Issuer} {
		if url != "" && !strings.HasPrefix(url, "https://") && !isLoopback(url) {
			return fmt.Errorf("keys are fetched from https:// only, not from %q; give jwks_url, jwks_file or public_key_file", url)
		}
		if url != "" {
			break
		}
	}
	if i.silent {
		return nil
	}
	if err := i.find(); err != nil {
		i.log.Warn("the keys of an issuer of tokens cannot be had yet", "issuer", i.Issuer.Issuer, "error", err)
	}
	return nil
}

// keepFinding looks for the keys again and again until it has them. Whoever comes with
// a token has no part in it: strangers could spend the attempts.
func (i *issuer) keepFinding(pause time.Duration) {
	timer := time.NewTicker(pause)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-i.ctx.Done():
			return
		}
		err := i.find()
		if err == nil {
			i.log.Info("the keys of an issuer of tokens were found", "issuer", i.Issuer.Issuer)
			return
		}
		i.log.Debug("the keys of an issuer of tokens cannot be had yet", "issuer", i.Issuer.Issuer, "error", err)
	}
}

// isLoopback reports whether a URL leads to this machine, which tests need.
func isLoopback(url string) bool {
	return strings.HasPrefix(url, "http://127.0.0.1:") || strings.HasPrefix(url, "http://[::1]:") || strings.HasPrefix(url, "http://localhost:")
}

func (i *issuer) openPEM() error {
	raw, err := os.ReadFile(i.PublicKeyFile)
	if err != nil {
		return fmt.Errorf("reading the public key: %w", err)
	}
	block, _ := pem.Decode(raw)
	if block == nil {
		return fmt.Errorf("%s holds no PEM block", i.PublicKeyFile)
	}
	public, err := parsePublic(block)
	if err != nil {
		return fmt.Errorf("%s: %w", i.PublicKeyFile, err)
	}
	keys := keyfunc.Keyfunc(staticKey{public})
	i.keys.Store(&keys)
	return nil
}

func parsePublic(block *pem.Block) (public crypto.PublicKey, err error) {
	if block.Type == "CERTIFICATE" {
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		public = cert.PublicKey
	} else if public, err = x509.ParsePKIXPublicKey(block.Bytes); err != nil {
		return nil, fmt.Errorf("a PEM block of type %q is no public key: %w", block.Type, err)
	}
	switch public.(type) {
	case *rsa.PublicKey, *ecdsa.PublicKey, ed25519.PublicKey:
		return public, nil
	}
	return nil, fmt.Errorf("a key of type %T verifies no tokens", public)
}

// staticKey is the one key of an issuer.
type staticKey struct{ public crypto.PublicKey }

func (k staticKey) Keyfunc(*jwt.Token) (any, error) { return k.public, nil }

func (k staticKey) KeyfuncCtx(context.Context) jwt.Keyfunc { return k.Keyfunc }

func (k staticKey) Storage() jwkset.Storage { return nil }

func (k staticKey) VerificationKeySet(context.Context) (jwt.VerificationKeySet, error) {
	return jwt.VerificationKeySet{Keys: []jwt.VerificationKey{k.public}}, nil
}

const (
	fetchTimeout = 10 * time.Second
	// findPause is the time between two attempts to find an issuer's keys, and the
	// least between two fetches because of a key that is not known: whoever sends
	// made-up tokens must not make this server ask the issuer for each.
	findPause = 30 * time.Second
	// refreshPause is the time after which keys are fetched again in any case.
	refreshPause = 15 * time.Minute
	maxDiscovery = 1 << 20 // bytes
)

// errNoKeys tells that a token cannot be verified now, but perhaps later.
var errNoKeys = errors.New("the keys of the token's issuer cannot be had at the moment")

// find looks up where the issuer's keys are, and fetches them.
func (i *issuer) find() (err error) {
	url := i.JWKSURL
	if url == "" {
		if url, err = i.discover(i.ctx); err != nil {
			return err
		}
	}
	strict := false
	ctx, cancel := context.WithCancel(i.ctx)
	defer func() {
		if err != nil {
			cancel() // else what would refresh the keys lives on
		}
	}()
	keys, err := keyfunc.NewDefaultOverrideCtx(ctx, []string{url}, keyfunc.Override{
		Client: i.client, HTTPTimeout: fetchTimeout, RefreshInterval: refreshPause, NoErrorReturnFirstHTTPReq: &strict,
		RefreshUnknownKID: rate.NewLimiter(rate.Every(findPause), 1), RateLimitWaitMax: fetchTimeout,
		RefreshErrorHandlerFunc: func(url string) func(context.Context, error) {
			return func(_ context.Context, err error) {
				i.log.Warn("fetching an issuer's keys failed; the old ones stay", "url", url, "error", err)
			}
		},
	})
	if err != nil {
		return fmt.Errorf("fetching keys from %s: %w", url, err)
	}
	i.keys.Store(&keys)
	return nil
}

// discover asks the issuer where its keys are: OpenID Connect Discovery 1.0, section 4.
func (i *issuer) discover(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	at := strings.TrimSuffix(i.Issuer.Issuer, "/") + "/.well-known/openid-configuration"
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
	if err != nil {
		return "", fmt.Errorf("asking for an issuer's keys: %w", err)
	}
	response, err := i.client.Do(request)
	if err != nil {
		return "", fmt.Errorf("asking for an issuer's keys: %w", err)
	}
	defer response.Body.Close()
	var found struct {
		Issuer string `json:"issuer"`
		JWKS   string `json:"jwks_uri"`
	}
	if err := json.NewDecoder(io.LimitReader(response.Body, maxDiscovery)).Decode(&found); err != nil || response.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s answered %s and no configuration of an issuer: %w", at, response.Status, err)
	}
	switch {
	case found.Issuer != i.Issuer.Issuer:
		return "", fmt.Errorf("%s speaks of the issuer %q, not of %q", at, found.Issuer, i.Issuer.Issuer)
	case !strings.HasPrefix(found.JWKS, "https://") && !isLoopback(found.JWKS):
		return "", fmt.Errorf("%s names keys at %q, which is not https://", at, found.JWKS)
	}
	return found.JWKS, nil
}

// fetches reports whether the keys come from the network, and are kept up to date.
func (i *issuer) fetches() bool { return i.JWKSFile == "" && i.PublicKeyFile == "" }

// verify returns the identity in a token.
func (i *issuer) verify(ctx context.Context, token string) (*Identity, error) {
	keys := i.keys.Load()
	if keys == nil {
		return nil, errNoKeys
	}
	claims := jwt.MapClaims{}
	// A fetch for a key that is not known is for all who come: it does not end when
	// this one leaves, or strangers could spend the next half minute's.
	if _, err := i.parser.ParseWithClaims(token, claims, (*keys).KeyfuncCtx(context.WithoutCancel(ctx))); err != nil {
		return nil, err
	}
	name, _ := claims[i.NameClaim].(string)
	if name == "" || !isName(i.NamePrefix+name) {
		return nil, fmt.Errorf("the claim %q is no name", i.NameClaim)
	}
	name = i.NamePrefix + name
	expires, err := claims.GetExpirationTime()
	if err != nil {
		return nil, err
	}
	who := NewIdentity("jwt", name, Grant{Scopes: i.scopes(claims[i.ScopeClaim]), Endpoints: i.Endpoints})
	who.expires = expires.Add(leeway)
	return who, nil
}

// scopes reads the scopes in a claim. What is not known to Shoal is for others.
func (i *issuer) scopes(claim any) (scopes []Scope) {
	var values []string
	switch c := claim.(type) {
	case string:
		values = strings.Fields(c)
	case []any:
		for _, v := range c {
			if text, ok := v.(string); ok {
				values = append(values, text)
			}
		}
	}
	for _, v := range values {
		s := Scope(v)
		if i.Scopes != nil {
			s = i.Scopes[v]
		}
		if slices.Contains(Scopes, s) && !slices.Contains(scopes, s) {
			scopes = append(scopes, s)
		}
	}
	return scopes
}
