package auth

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/shoalserve/shoal/internal/serving"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http.(*persistConn).readLoop"), goleak.IgnoreAnyFunction("net/http.(*persistConn).writeLoop"))
}

func open(t *testing.T, config Config, opts Options) *Authenticator {
	t.Helper()
	a, err := New(config, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Close)
	return a
}

// reasonOf is a Denial's reason, and the code of any error.
func reasonOf(err error) string {
	if d, ok := errors.AsType[*Denial](err); ok {
		return d.Reason
	}
	return fmt.Sprint(err)
}

func request(authorization ...string) *http.Request {
	r := httptest.NewRequest("GET", "/", nil)
	if authorization != nil {
		r.Header["Authorization"] = authorization
	}
	return r
}

func TestAKeyIsKnownByItsDigest(t *testing.T) {
	key, sha := NewKey()
	file := filepath.Join(t.TempDir(), "key")
	other := "a-key-of-at-least-sixteen"
	if err := os.WriteFile(file, []byte(other+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	a := open(t, Config{Keys: map[string]Key{
		"alice": {SHA256: sha, Grant: Grant{Scopes: []Scope{Query}, Endpoints: []string{"adder"}}},
		"ci":    {File: file, Grant: Grant{Scopes: []Scope{Deploy}}},
	}}, Options{})
	for header, want := range map[string]string{
		"Bearer " + key: "alice", "bearer  " + key + " ": "alice", "Bearer " + other: "ci",
		"Bearer " + key + "x": "invalid", "Bearer " + key[:len(key)-1]: "invalid", "Bearer" + " ": "invalid", "Bearer": "invalid",
		"Basic " + key: "invalid", key: "invalid", "": "invalid", "Bearer " + sha: "invalid",
	} {
		who, err := a.Request(request(header))
		got := reasonOf(err)
		if err == nil {
			got = who.Name
		}
		if got != want {
			t.Errorf("%q is %s, want %s", header, got, want)
		}
	}
	if _, err := a.Request(request()); reasonOf(err) != "missing" || serving.Describe(err).Status != 401 {
		t.Errorf("no header is %v", err)
	}
	if _, err := a.Request(request("Bearer "+key, "Bearer "+key)); reasonOf(err) != "invalid" {
		t.Errorf("two headers are %v", err)
	}
}

func TestScopes(t *testing.T) {
	for _, c := range []struct {
		held, asked Scope
		may         bool
	}{
		{Query, Query, true}, {Query, Deploy, false}, {Query, Admin, false}, {Deploy, Query, false}, {Deploy, Deploy, true},
		{Deploy, Admin, false}, {Admin, Query, true}, {Admin, Deploy, true}, {Admin, Admin, true}, {Admin, Metrics, true}, {Metrics, Query, false},
	} {
		err := NewIdentity("key", "x", Grant{Scopes: []Scope{c.held}}).Allow(c.asked)
		if (err == nil) != c.may {
			t.Errorf("%s may %s: %v", c.held, c.asked, err)
		}
		if err != nil && (reasonOf(err) != "scope" || serving.Describe(err).Status != 403 || !strings.Contains(errChallenge(err), `scope="`+string(c.asked)+`"`)) {
			t.Errorf("%v, %s", err, errChallenge(err))
		}
	}
	who := NewIdentity("key", "x", Grant{Scopes: []Scope{Query}, Endpoints: []string{"a", "b"}})
	if who.AllowQuery("b") != nil || reasonOf(who.AllowQuery("c")) != "endpoint" || reasonOf(who.AllowQuery("")) != "endpoint" {
		t.Error("the restriction to endpoints does not hold")
	}
	if NewIdentity("key", "x", Grant{Scopes: []Scope{Query}, Endpoints: []string{}}).Reaches("a") {
		t.Error("an empty list of endpoints allows one")
	}
	if NewIdentity("key", "x", Grant{}).May() {
		t.Error("an identity without scopes may something")
	}
}

func errChallenge(err error) string {
	d, _ := errors.AsType[*Denial](err)
	return d.Challenge()
}

func TestACertificateIsAnIdentityOnlyWhenItWasVerified(t *testing.T) {
	leaf := &x509.Certificate{Subject: pkix.Name{CommonName: "alice"}, DNSNames: []string{"host.example"}}
	for name, c := range map[string]struct {
		subject string
		state   *tls.ConnectionState
		want    string
	}{
		"by common name": {"alice", &tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{leaf}}}, "a"},
		"by DNS name":    {"host.example", &tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{leaf}}}, "a"},
		"not known":      {"bob", &tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{leaf}}}, ""},
		"not verified":   {"alice", &tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf}}, ""},
		"none":           {"alice", &tls.ConnectionState{}, ""},
		"no TLS":         {"alice", nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			a := open(t, Config{Certificates: map[string]Certificate{"a": {Grant: Grant{Scopes: []Scope{Query}}, Subject: c.subject}}}, Options{})
			r := request()
			r.TLS = c.state
			who, err := a.Request(r)
			if (c.want == "") != (err != nil) || (err == nil && (who.Name != c.want || who.Kind != "certificate")) {
				t.Errorf("got %v, %v", who, err)
			}
			if err != nil && reasonOf(err) != "missing" {
				t.Error(err)
			}
		})
	}
}

// A connection may outlive the certificate that it was opened with.
func TestACertificatesIdentityEndsWithIt(t *testing.T) {
	var now atomic.Int64
	config := Config{Certificates: map[string]Certificate{"alice": {Grant: Grant{Scopes: []Scope{Query}}}}}
	a := open(t, config, Options{Now: func() time.Time { return start.Add(time.Duration(now.Load())) }})
	leaf := &x509.Certificate{Subject: pkix.Name{CommonName: "alice"}, NotAfter: start.Add(time.Hour)}
	above := &x509.Certificate{NotAfter: start.Add(time.Minute)}
	r := request()
	r.TLS = &tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{leaf, above}}}
	who, err := a.Request(r)
	if err != nil || who.Ended(start) || !who.Ended(start.Add(time.Minute)) {
		t.Fatalf("got %v, %v, which ends at another time", who, err)
	}
	now.Store(int64(time.Minute))
	if _, err := a.Request(r); reasonOf(err) != "expired" {
		t.Errorf("after its end: %v", err)
	}
	if err := a.Reload(Config{Certificates: map[string]Certificate{"bob": config.Certificates["alice"]}}); err != nil {
		t.Fatal(err)
	}
	if !who.Ended(start) {
		t.Error("an identity that was taken away lives on")
	}
}

func TestReloadEndsWhatIsGoneAndKeepsTheRest(t *testing.T) {
	key1, sha1 := NewKey()
	key2, sha2 := NewKey()
	key3, sha3 := NewKey()
	grant := Grant{Scopes: []Scope{Query}}
	a := open(t, Config{Keys: map[string]Key{"one": {SHA256: sha1, Grant: grant}, "two": {SHA256: sha2, Grant: grant}, "three": {SHA256: sha3, Grant: grant}}}, Options{})
	one, two, three := a.Known([]byte(key1)), a.Known([]byte(key2)), a.Known([]byte(key3))
	err := a.Reload(Config{Keys: map[string]Key{"one": {SHA256: sha1, Grant: grant}, "two": {SHA256: sha2, Grant: Grant{Scopes: []Scope{Deploy}}}}})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	if one.Ended(now) || !two.Ended(now) || !three.Ended(now) {
		t.Errorf("ended: %v, %v, %v", one.Ended(now), two.Ended(now), three.Ended(now))
	}
	if a.Known([]byte(key1)) != one || a.Known([]byte(key3)) != nil || a.Known([]byte(key2)).May(Query) {
		t.Error("the new config is not in force")
	}
	if err := a.Reload(Config{}); err == nil || a.Known([]byte(key1)) != one || one.Ended(now) {
		t.Errorf("a config without credentials was taken: %v", err)
	}
}

func TestWrongConfigsAreRefused(t *testing.T) {
	_, sha := NewKey()
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	q := Grant{Scopes: []Scope{Query}}
	issuer := Issuer{Issuer: "https://i", Audience: "a", PublicKeyFile: write("none", "nothing")}
	with := func(change func(*Issuer)) Config {
		i := issuer
		change(&i)
		return Config{JWT: []Issuer{i}}
	}
	for want, config := range map[string]Config{
		"names no credential":        {},
		"scopes are missing":         {Keys: map[string]Key{"a": {SHA256: sha}}},
		`"root" is no scope`:         {Keys: map[string]Key{"a": {SHA256: sha, Grant: Grant{Scopes: []Scope{"root"}}}}},
		"give either sha256":         {Keys: map[string]Key{"a": {Grant: q}}},
		"64 hex digits":              {Keys: map[string]Key{"a": {Grant: q, SHA256: "abc"}}},
		"no such file":               {Keys: map[string]Key{"a": {Grant: q, File: filepath.Join(dir, "missing")}}},
		"at least 16 characters":     {Keys: map[string]Key{"a": {Grant: q, File: write("short", "secret")}}},
		"nothing else":               {Keys: map[string]Key{"a": {Grant: q, File: write("two", "a key of some length\nand another")}}},
		"printable ASCII":            {Keys: map[string]Key{"a\n": {Grant: q, SHA256: sha}}},
		`the same key as "a"`:        {Keys: map[string]Key{"a": {Grant: q, SHA256: sha}, "b": {Grant: q, SHA256: sha}}},
		"the same subject":           {Certificates: map[string]Certificate{"a": {Grant: q, Subject: "x"}, "b": {Grant: q, Subject: "x"}}},
		"must both be given":         with(func(i *Issuer) { i.Audience = "" }),
		`algorithm "none"`:           with(func(i *Issuer) { i.Algorithms = []string{"none"} }),
		`algorithm "HS256"`:          with(func(i *Issuer) { i.Algorithms = []string{"HS256"} }),
		`key "a": endpoints is e`:    {Keys: map[string]Key{"a": {SHA256: sha, Grant: Grant{Scopes: []Scope{Query}, Endpoints: []string{}}}}},
		`"a": endpoints is empty`:    {Certificates: map[string]Certificate{"a": {Grant: Grant{Scopes: []Scope{Query}, Endpoints: []string{}}}}},
		`"https://i": endpoints is`:  with(func(i *Issuer) { i.Endpoints = []string{} }),
		`give each a name_prefix`:    {JWT: []Issuer{issuer, {Issuer: "https://j", Audience: "a", PublicKeyFile: "x", NamePrefix: "j:"}}},
		`begins with the other`:      {JWT: []Issuer{{Issuer: "https://i", NamePrefix: "i"}, {Issuer: "https://j", NamePrefix: "i:"}}},
		"name_prefix has at most":    with(func(i *Issuer) { i.NamePrefix = "a\nb" }),
		"which is no scope":          with(func(i *Issuer) { i.Scopes = map[string]Scope{"x": "y"} }),
		"give one of":                with(func(i *Issuer) { i.JWKSFile = "x" }),
		"holds no PEM block":         with(func(*Issuer) {}),
		"is no public key":           with(func(i *Issuer) { i.PublicKeyFile = write("odd", "-----BEGIN X-----\nAAAA\n-----END X-----\n") }),
		"no JSON Web Key Set":        with(func(i *Issuer) { i.PublicKeyFile, i.JWKSFile = "", issuer.PublicKeyFile }),
		"fetched from https:// only": with(func(i *Issuer) { i.PublicKeyFile, i.Issuer = "", "http://issuer.example" }),
	} {
		if _, err := New(config, Options{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
}
