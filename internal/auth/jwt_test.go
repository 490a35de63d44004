package auth

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/shoalserve/shoal/internal/serving"
)

var signer = func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
}()

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func goodClaims() jwt.MapClaims {
	return jwt.MapClaims{
		"iss": "https://issuer.example", "aud": "shoal", "sub": "alice", "scope": "openid query deploy",
		"iat": start.Unix(), "nbf": start.Unix(), "exp": start.Add(time.Hour).Unix(),
	}
}

func sign(t *testing.T, method jwt.SigningMethod, key any, claims jwt.MapClaims, kid string) string {
	t.Helper()
	token := jwt.NewWithClaims(method, claims)
	if kid != "" {
		token.Header["kid"] = kid
	}
	text, err := token.SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func pemFile(t *testing.T, public crypto.PublicKey) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "public.pem")
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestTokens(t *testing.T) {
	a := open(t, Config{JWT: []Issuer{{Issuer: "https://issuer.example", Audience: "shoal", PublicKeyFile: pemFile(t, &signer.PublicKey)}}},
		Options{Now: func() time.Time { return start.Add(time.Minute) }})
	stranger, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	elliptical, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public, err := os.ReadFile(pemFile(t, &signer.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	good := sign(t, jwt.SigningMethodRS256, signer, goodClaims(), "")
	parts := strings.Split(good, ".")
	with := func(key string, value any) string {
		claims := maps.Clone(goodClaims())
		if claims[key] = value; value == nil {
			delete(claims, key)
		}
		return sign(t, jwt.SigningMethodRS256, signer, claims, "")
	}
	b64 := func(text string) string { return base64.RawURLEncoding.EncodeToString([]byte(text)) }
	for name, c := range map[string]struct{ token, want string }{
		"good":                      {good, "alice"},
		"several audiences":         {with("aud", []string{"other", "shoal"}), "alice"},
		"expired within the leeway": {with("exp", start.Add(40*time.Second).Unix()), "alice"},
		"expired":                   {with("exp", start.Unix()), "expired"},
		"never expires":             {with("exp", nil), "invalid"},
		"not yet valid":             {with("nbf", start.Add(time.Hour).Unix()), "invalid"},
		"for others":                {with("aud", "another"), "invalid"},
		"for nobody":                {with("aud", nil), "invalid"},
		"of another issuer":         {with("iss", "https://elsewhere.example"), "invalid"},
		"of nobody":                 {with("iss", nil), "invalid"},
		"without a name":            {with("sub", nil), "invalid"},
		"a name with a line break":  {with("sub", "a\nb"), "invalid"},
		"a name that is no text":    {with("sub", 7), "invalid"},
		"another's signature":       {sign(t, jwt.SigningMethodRS256, stranger, goodClaims(), ""), "invalid"},
		"another algorithm":         {sign(t, jwt.SigningMethodRS512, signer, goodClaims(), ""), "invalid"},
		"another kind of key":       {sign(t, jwt.SigningMethodES256, elliptical, goodClaims(), ""), "invalid"},
		"no algorithm":              {sign(t, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, goodClaims(), ""), "invalid"},
		"none, without a signature": {b64(`{"alg":"none"}`) + "." + parts[1] + ".", "invalid"},
		"None":                      {b64(`{"alg":"None"}`) + "." + parts[1] + "." + parts[2], "invalid"},
		"the public key as secret":  {sign(t, jwt.SigningMethodHS256, public, goodClaims(), ""), "invalid"},
		"no signature":              {parts[0] + "." + parts[1] + ".", "invalid"},
		"other claims":              {parts[0] + "." + b64(`{"iss":"https://issuer.example","aud":"shoal","sub":"root","scope":"admin","exp":9999999999}`) + "." + parts[2], "invalid"},
		"one part":                  {parts[0], "invalid"},
		"four parts":                {good + ".x", "invalid"},
		"rubbish":                   {"..", "invalid"},
		"too long":                  {strings.Repeat("a", maxToken) + "..", "invalid"},
	} {
		t.Run(name, func(t *testing.T) {
			who, err := a.Verify(t.Context(), c.token)
			got := reasonOf(err)
			if err == nil {
				got = who.Name
			}
			if got != c.want {
				t.Fatalf("got %s, want %s", got, c.want)
			}
			if err == nil && (!who.May(Query) || !who.May(Deploy) || who.May(Admin) || who.Kind != "jwt") {
				t.Errorf("scopes %v", who.grant.Scopes)
			}
		})
	}
}

func TestScopesOfATokenAreMapped(t *testing.T) {
	a := open(t, Config{JWT: []Issuer{{
		Issuer: "https://issuer.example", Audience: "shoal", PublicKeyFile: pemFile(t, &signer.PublicKey), NameClaim: "email",
		ScopeClaim: "roles", Scopes: map[string]Scope{"ml-user": Query}, Endpoints: []string{"adder"},
	}}}, Options{Now: func() time.Time { return start }})
	claims := goodClaims()
	claims["roles"], claims["email"] = []any{"admin", "ml-user", 7, "query"}, "alice@example.com"
	who, err := a.Verify(t.Context(), sign(t, jwt.SigningMethodRS256, signer, claims, ""))
	if err != nil {
		t.Fatal(err)
	}
	if who.Name != "alice@example.com" || !who.May(Query) || who.May(Admin) || who.Reaches("other") {
		t.Errorf("got %+v", who)
	}
}

// Two callers of one name would share a caller's batches and his share.
func TestATokensNameIsNobodyElses(t *testing.T) {
	_, sha := NewKey()
	issuer := Issuer{Issuer: "https://issuer.example", Audience: "shoal", PublicKeyFile: pemFile(t, &signer.PublicKey)}
	other := issuer
	other.Issuer = "https://other.example"
	claims := goodClaims()
	claims["iss"] = other.Issuer
	query := Grant{Scopes: []Scope{Query}}
	for name, c := range map[string]struct {
		prefix string // of the first issuer
		config Config
		want   string
	}{
		"alone":             {config: Config{}, want: "alice"},
		"with a prefix":     {prefix: "login:", want: "login:alice"},
		"a key's":           {config: Config{Keys: map[string]Key{"alice": {SHA256: sha, Grant: query}}}, want: "invalid"},
		"a certificate's":   {config: Config{Certificates: map[string]Certificate{"alice": {Grant: query}}}, want: "invalid"},
		"not a key's":       {prefix: "login:", config: Config{Keys: map[string]Key{"alice": {SHA256: sha, Grant: query}}}, want: "login:alice"},
		"a key's by prefix": {prefix: "login:", config: Config{Keys: map[string]Key{"login:alice": {SHA256: sha, Grant: query}}}, want: "invalid"},
		"longer than names": {prefix: strings.Repeat("x", maxName), want: "invalid"},
	} {
		c.config.JWT = []Issuer{issuer}
		c.config.JWT[0].NamePrefix = c.prefix
		if c.prefix != "" {
			other.NamePrefix = "other:"
			c.config.JWT = append(c.config.JWT, other)
		}
		a := open(t, c.config, Options{Now: func() time.Time { return start }})
		if got := nameOr(a.Verify(t.Context(), sign(t, jwt.SigningMethodRS256, signer, goodClaims(), ""))); got != c.want {
			t.Errorf("%s: got %s, want %s", name, got, c.want)
		}
		if c.prefix == "" {
			continue
		}
		if got := nameOr(a.Verify(t.Context(), sign(t, jwt.SigningMethodRS256, signer, claims, ""))); got != "other:alice" {
			t.Errorf("%s: the other issuer's is %s", name, got)
		}
	}
}

// nameOr is an identity's name, or why there is none.
func nameOr(who *Identity, err error) string {
	if err != nil {
		return reasonOf(err)
	}
	return who.Name
}

func TestATokenIsRememberedAsLongAsItIsValid(t *testing.T) {
	var now atomic.Int64
	a := open(t, Config{JWT: []Issuer{{Issuer: "https://issuer.example", Audience: "shoal", PublicKeyFile: pemFile(t, &signer.PublicKey)}}},
		Options{Now: func() time.Time { return start.Add(time.Duration(now.Load())) }})
	claims := goodClaims()
	claims["exp"] = start.Add(time.Minute).Unix()
	token := sign(t, jwt.SigningMethodRS256, signer, claims, "")
	if a.Known([]byte(token)) != nil {
		t.Fatal("known before it was verified")
	}
	who, err := a.Verify(t.Context(), token)
	if err != nil || a.Known([]byte(token)) != who {
		t.Fatalf("%v; not remembered", err)
	}
	now.Store(int64(time.Minute + leeway))
	if a.Known([]byte(token)) != nil || !who.Ended(start.Add(time.Minute+leeway)) {
		t.Error("an expired token is still known")
	}
	if _, err := a.Verify(t.Context(), token); reasonOf(err) != "expired" {
		t.Error(err)
	}
	now.Store(0)
	if who, err = a.Verify(t.Context(), token); err != nil {
		t.Fatal(err)
	}
	if err := a.Reload(a.state.Load().config); err != nil {
		t.Fatal(err)
	}
	if !who.Ended(start) || a.Known([]byte(token)) != nil {
		t.Error("a token of a file's key, which may be another now, outlived a reload")
	}
}

func TestRememberedTokensAreBounded(t *testing.T) {
	var known tokens
	for i := range 3 * maxTokens {
		who := NewIdentity("jwt", "x", Grant{})
		who.expires = start.Add(time.Hour)
		known.put(digestOf(fmt.Append(nil, i)), who, start)
		if len(known.known) > maxTokens {
			t.Fatalf("%d tokens are remembered", len(known.known))
		}
	}
	if known.get(digestOf(fmt.Append(nil, 3*maxTokens-1)), start) == nil {
		t.Error("the last one is not among them")
	}
	if known.get(digestOf(fmt.Append(nil, 3*maxTokens-1)), start.Add(maxRemembered)) != nil {
		t.Error("it is remembered for too long")
	}
}

// provider is an OpenID Connect issuer.
type provider struct {
	*httptest.Server
	keys    atomic.Pointer[map[string]*rsa.PublicKey]
	down    atomic.Bool
	fetches atomic.Int32
}

func newProvider(t *testing.T) *provider {
	p := &provider{}
	mux := http.NewServeMux()
	mux.HandleFunc("/.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		if p.down.Load() {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		fmt.Fprintf(w, `{"issuer":%q,"jwks_uri":%q}`, p.URL, p.URL+"/keys")
	})
	mux.HandleFunc("/keys", func(w http.ResponseWriter, _ *http.Request) {
		p.fetches.Add(1)
		var list []map[string]string
		for kid, key := range *p.keys.Load() {
			list = append(list, map[string]string{
				"kty": "RSA", "kid": kid, "alg": "RS256", "use": "sig",
				"n": base64.RawURLEncoding.EncodeToString(key.N.Bytes()), "e": base64.RawURLEncoding.EncodeToString(big.NewInt(int64(key.E)).Bytes()),
			})
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"keys": list})
	})
	p.Server = httptest.NewServer(mux)
	t.Cleanup(p.Close)
	return p
}

// withOneKey is a provider that has the signer's key, an Authenticator that takes its
// tokens, good claims, and another key for later.
func withOneKey(t *testing.T) (p *provider, a *Authenticator, claims jwt.MapClaims, second *rsa.PrivateKey) {
	t.Helper()
	second, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p = newProvider(t)
	p.keys.Store(&map[string]*rsa.PublicKey{"one": &signer.PublicKey})
	a = open(t, Config{JWT: []Issuer{{Issuer: p.URL, Audience: "shoal"}}}, Options{Now: func() time.Time { return start }, Client: p.Client()})
	claims = goodClaims()
	claims["iss"] = p.URL
	return p, a, claims, second
}

func TestAnIssuersKeysAreFoundAndRotated(t *testing.T) {
	p, a, claims, second := withOneKey(t)
	if _, err := a.Verify(t.Context(), sign(t, jwt.SigningMethodRS256, signer, claims, "one")); err != nil {
		t.Fatal(err)
	}
	p.keys.Store(&map[string]*rsa.PublicKey{"two": &second.PublicKey})
	if _, err := a.Verify(t.Context(), sign(t, jwt.SigningMethodRS256, second, claims, "two")); err != nil {
		t.Fatalf("a new key was not fetched: %v", err)
	}
	before := p.fetches.Load()
	for i := range 20 {
		if _, err := a.Verify(t.Context(), sign(t, jwt.SigningMethodRS256, second, claims, fmt.Sprint("made up ", i))); err == nil {
			t.Error("a token with a made-up key id was taken")
		}
	}
	if n := p.fetches.Load() - before; n > 1 {
		t.Errorf("made-up tokens made %d fetches", n)
	}
	claims["sub"] = "mallory"
	if _, err := a.Verify(t.Context(), sign(t, jwt.SigningMethodRS256, signer, claims, "two")); reasonOf(err) != "invalid" {
		t.Errorf("a signature with another key is %v", err)
	}
}

func TestAnIssuerThatIsDownIsNoReasonNotToStart(t *testing.T) {
	p := newProvider(t)
	p.down.Store(true)
	a := open(t, Config{JWT: []Issuer{{Issuer: p.URL, Audience: "shoal"}}}, Options{Client: p.Client()})
	claims := goodClaims()
	claims["iss"] = p.URL
	if _, err := a.Verify(t.Context(), sign(t, jwt.SigningMethodRS256, signer, claims, "one")); serving.Describe(err).Status != 503 {
		t.Errorf("got %v", err)
	}
}

// An issuer that is down while the config is read again must not lock out everybody.
func TestAnIssuersKeysOutliveAReloadDuringItsOutage(t *testing.T) {
	p := newProvider(t)
	p.keys.Store(&map[string]*rsa.PublicKey{"one": &signer.PublicKey})
	config := Config{JWT: []Issuer{{Issuer: p.URL, Audience: "shoal"}}}
	a := open(t, config, Options{Now: func() time.Time { return start }, Client: p.Client(), pause: time.Millisecond})
	claims := goodClaims()
	claims["iss"] = p.URL
	p.down.Store(true)
	for i := range 3 {
		if err := a.Reload(config); err != nil {
			t.Fatal(err)
		}
		claims["sub"] = fmt.Sprint("alice ", i) // none that is remembered
		if _, err := a.Verify(t.Context(), sign(t, jwt.SigningMethodRS256, signer, claims, "one")); err != nil {
			t.Errorf("after reload %d: %v", i, err)
		}
	}
	other := Config{JWT: []Issuer{{Issuer: "https://127.0.0.1:1", Audience: "shoal"}}}
	if err := a.Reload(other); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Verify(t.Context(), sign(t, jwt.SigningMethodRS256, signer, claims, "one")); reasonOf(err) != "invalid" {
		t.Errorf("the keys of an issuer who is gone: %v", err)
	}
}

// Whoever comes with tokens spends none of the attempts to find an issuer's keys, and
// those that fail leave nothing running.
func TestAnIssuersKeysAreFoundWhenItIsBack(t *testing.T) {
	p := newProvider(t)
	p.keys.Store(&map[string]*rsa.PublicKey{"one": &signer.PublicKey})
	p.down.Store(true)
	a := open(t, Config{JWT: []Issuer{{Issuer: p.URL, Audience: "shoal"}}}, Options{Now: func() time.Time { return start }, Client: p.Client(), pause: time.Millisecond})
	claims := goodClaims()
	claims["iss"] = p.URL
	token := sign(t, jwt.SigningMethodRS256, signer, claims, "one")
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	for range 100 {
		if _, err := a.Verify(gone, token); serving.Describe(err).Status != 503 {
			t.Fatal(err)
		}
	}
	p.down.Store(false)
	for end := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		if _, err := a.Verify(t.Context(), token); err == nil {
			break
		} else if time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

// failing is a transport that lets discovery through, and nothing else.
type failing struct{ http.RoundTripper }

func (f failing) RoundTrip(r *http.Request) (*http.Response, error) {
	if strings.HasSuffix(r.URL.Path, "/keys") {
		return nil, errors.New("no route")
	}
	return f.RoundTripper.RoundTrip(r)
}

func TestAttemptsThatFailLeaveNothingRunning(t *testing.T) {
	p := newProvider(t)
	client := &http.Client{Transport: failing{p.Client().Transport}}
	i, err := newIssuer(t.Context(), Issuer{Issuer: p.URL, Audience: "shoal"}, Options{Client: client, Logger: slog.New(slog.DiscardHandler), Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	for range 50 {
		if err := i.find(); err == nil {
			t.Fatal("the keys were found")
		}
	}
	for end := time.Now().Add(time.Minute); refreshing() > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d goroutines refresh keys that were never found", refreshing())
		}
	}
}

// refreshing counts the goroutines that refresh keys.
func refreshing() int {
	stacks := make([]byte, 1<<20)
	return strings.Count(string(stacks[:runtime.Stack(stacks, true)]), "jwkset.NewStorageFromHTTP")
}

// A client that leaves does not take the fetch with it, which comes once in a while only.
func TestAFetchForAKeyIsForAllWhoCome(t *testing.T) {
	p, a, claims, second := withOneKey(t)
	p.keys.Store(&map[string]*rsa.PublicKey{"two": &second.PublicKey})
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	_, _ = a.Verify(gone, sign(t, jwt.SigningMethodRS256, signer, claims, "made up"))
	if _, err := a.Verify(t.Context(), sign(t, jwt.SigningMethodRS256, second, claims, "two")); err != nil {
		t.Errorf("the new key is not known: %v", err)
	}
}
