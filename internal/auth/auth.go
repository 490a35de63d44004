package auth

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/MicahParks/keyfunc/v3"
	"github.com/golang-jwt/jwt/v5"

	"github.com/shoalserve/shoal/internal/serving"
)

// Config is which credentials a server takes.
type Config struct {
	// Keys are API keys by their names.
	Keys map[string]Key `json:"keys"`
	// JWT are those whose tokens are taken.
	JWT []Issuer `json:"jwt"`
	// Certificates are client certificates by the names of their identities.
	Certificates map[string]Certificate `json:"certificates"`
	// OpenMetrics leaves /metrics open to all.
	OpenMetrics bool `json:"open_metrics"`
}

// Options are what an Authenticator works with. Zero fields take their defaults.
type Options struct {
	Logger *slog.Logger
	// Client fetches the keys of issuers. Default one with a timeout.
	Client *http.Client
	Now    func() time.Time

	pause   time.Duration // between two attempts to find an issuer's keys; for tests
	offline bool          // issuers are not asked; see Check
}

// Authenticator knows the credentials of a server. It may be used by any
// goroutine. Without one (nil) everybody is let in.
type Authenticator struct {
	opts   Options
	state  atomic.Pointer[state]
	reload sync.Mutex
}

// state is what one config says.
type state struct {
	config       Config
	keys         map[digest]*Identity
	issuers      []*issuer
	certificates map[string]*Identity // by subject
	tokens       tokens
	cancel       context.CancelFunc // ends what the issuers began
	finding      sync.WaitGroup     // of keys that could not be had yet
	revoked      *atomic.Bool       // ends the identities of tokens
}

// New returns an Authenticator, which is to be closed. An error says what is
// wrong with the config, and where.
func New(config Config, opts Options) (*Authenticator, error) {
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	if opts.Client == nil {
		opts.Client = &http.Client{Timeout: fetchTimeout}
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.pause == 0 {
		opts.pause = findPause
	}
	a := &Authenticator{opts: opts}
	next, err := a.build(config)
	if err != nil {
		return nil, err
	}
	a.state.Store(next)
	return a, nil
}

// Check returns what New would find wrong with a config. It asks no issuer for keys.
func Check(config Config) error {
	a, err := New(config, Options{offline: true})
	a.Close()
	return err
}

// Reload puts a config in the place of the one in force, and reads the files that
// it names again. What has changed or is gone ends, also on connections that are
// open. If it returns an error, nothing has changed.
func (a *Authenticator) Reload(config Config) error {
	next, err := a.Prepare(config)
	if err == nil {
		next.Commit()
	}
	return err
}

// Prepared is a config that was read and is not in force. It is to be committed or
// discarded.
type Prepared struct {
	authenticator *Authenticator
	next          *state
}

// Prepare is Reload, up to where nothing can fail any more.
func (a *Authenticator) Prepare(config Config) (*Prepared, error) {
	next, err := a.build(config)
	if err != nil {
		return nil, err
	}
	return &Prepared{a, next}, nil
}

// Commit puts the config in force.
func (p *Prepared) Commit() {
	a := p.authenticator
	a.reload.Lock()
	defer a.reload.Unlock()
	old := a.state.Load()
	p.next.keep(old)
	a.state.Store(p.next)
	old.end(p.next)
}

// Discard drops the config.
func (p *Prepared) Discard() { p.next.stop() }

// Close ends the fetching of keys.
func (a *Authenticator) Close() {
	if a != nil {
		a.state.Load().stop()
	}
}

// OpenMetrics reports whether /metrics is open to all.
func (a *Authenticator) OpenMetrics() bool { return a == nil || a.state.Load().config.OpenMetrics }

func (a *Authenticator) build(config Config) (*state, error) {
	ctx, cancel := context.WithCancel(context.Background())
	s := &state{config: config, keys: make(map[digest]*Identity), certificates: make(map[string]*Identity), cancel: cancel, revoked: new(atomic.Bool)}
	err := errors.Join(s.addKeys(), s.addCertificates(), s.addIssuers(ctx, a.opts, a.state.Load()), checkPrefixes(config.JWT))
	if err == nil && len(s.keys)+len(s.issuers)+len(s.certificates) == 0 {
		err = errors.New("auth: names no credential, so that nobody could get in; give keys, jwt or certificates, or leave it out")
	}
	if err != nil {
		s.stop()
		return nil, err
	}
	return s, nil
}

// stop ends the fetching of keys.
func (s *state) stop() {
	s.cancel()
	s.finding.Wait()
}

func (s *state) addKeys() (err error) {
	for _, name := range slices.Sorted(maps.Keys(s.config.Keys)) {
		key := s.config.Keys[name]
		d, wrong := key.read()
		if wrong = errors.Join(wrong, key.check(), checkName(name)); wrong != nil {
			err = errors.Join(err, fmt.Errorf("auth: key %q: %w", name, wrong))
			continue
		}
		if other := s.keys[d]; other != nil {
			err = errors.Join(err, fmt.Errorf("auth: key %q: is the same key as %q", name, other.Name))
			continue
		}
		s.keys[d] = NewIdentity("key", name, key.Grant)
	}
	return err
}

func (s *state) addCertificates() (err error) {
	for _, name := range slices.Sorted(maps.Keys(s.config.Certificates)) {
		c := s.config.Certificates[name]
		if c.Subject == "" {
			c.Subject = name
		}
		if wrong := errors.Join(c.check(), checkName(name)); wrong != nil {
			err = errors.Join(err, fmt.Errorf("auth: certificate %q: %w", name, wrong))
		} else if other := s.certificates[c.Subject]; other != nil {
			err = errors.Join(err, fmt.Errorf("auth: certificate %q: has the same subject as %q", name, other.Name))
		} else {
			s.certificates[c.Subject] = NewIdentity("certificate", name, c.Grant)
		}
	}
	return err
}

func checkName(name string) error {
	if !isName(name) {
		return fmt.Errorf("a name has 1 to %d printable ASCII characters", maxName)
	}
	return nil
}

// addIssuers finds the keys of the issuers. Where those cannot be had now, the ones
// that are in force stay: an issuer that is down must not make a reload lock out
// whoever comes with its tokens.
func (s *state) addIssuers(ctx context.Context, opts Options, old *state) (err error) {
	for _, c := range s.config.JWT {
		i, wrong := newIssuer(ctx, c, opts)
		if wrong != nil {
			err = errors.Join(err, fmt.Errorf("auth: jwt %q: %w", c.Issuer, wrong))
			continue
		}
		s.issuers = append(s.issuers, i)
		if i.keys.Load() == nil {
			i.keys.Store(old.keysOf(i))
			s.finding.Go(func() { i.keepFinding(opts.pause) }) // ends with ctx
		}
	}
	return err
}

// checkPrefixes refuses issuers whose callers could have the same names: no prefix may
// be the beginning of another issuer's.
func checkPrefixes(issuers []Issuer) error {
	for n, i := range issuers {
		for _, other := range issuers[:n] {
			if i.Issuer != other.Issuer && (strings.HasPrefix(i.NamePrefix, other.NamePrefix) || strings.HasPrefix(other.NamePrefix, i.NamePrefix)) {
				return fmt.Errorf("auth: jwt %q and %q: give each a name_prefix, none of which begins with the other, so that no two callers have one name", other.Issuer, i.Issuer)
			}
		}
	}
	return nil
}

// keysOf returns the keys that a state has of an issuer who has them in the same
// place; nil if it has none.
func (s *state) keysOf(of *issuer) *keyfunc.Keyfunc {
	if s == nil {
		return nil
	}
	for _, i := range s.issuers {
		if i.fetches() && i.Issuer.Issuer == of.Issuer.Issuer && i.JWKSURL == of.JWKSURL {
			return i.keys.Load()
		}
	}
	return nil
}

// keep takes over the identities of another state that are still the same, so that
// their connections live on.
func (s *state) keep(old *state) {
	for d, who := range old.keys {
		if same(s.keys[d], who) {
			s.keys[d] = who
		}
	}
	for subject, who := range old.certificates {
		if same(s.certificates[subject], who) {
			s.certificates[subject] = who
		}
	}
	files := slices.ContainsFunc(s.issuers, func(i *issuer) bool { return !i.fetches() }) // whose keys may be others now
	if !files && reflect.DeepEqual(s.config.JWT, old.config.JWT) {
		s.revoked = old.revoked
	}
}

func same(a, b *Identity) bool {
	return a != nil && a.Name == b.Name && reflect.DeepEqual(a.grant, b.grant)
}

// end ends the identities that the next state does not have.
func (s *state) end(next *state) {
	s.stop()
	for d, who := range s.keys {
		if next.keys[d] != who {
			who.revoked.Store(true)
		}
	}
	for subject, who := range s.certificates {
		if next.certificates[subject] != who {
			who.revoked.Store(true)
		}
	}
	if next.revoked != s.revoked {
		s.revoked.Store(true)
	}
}

// Known returns the identity of a credential that is known without a signature or
// a fetch: an API key, or a token that was verified before; else nil.
func (a *Authenticator) Known(credential []byte) *Identity {
	s := a.state.Load()
	d := digestOf(credential)
	if who := s.keys[d]; who != nil {
		return who
	}
	if len(s.issuers) == 0 {
		return nil
	}
	return s.tokens.get(d, a.opts.Now())
}

// Verify returns the identity of a credential, or a *Denial; or an error with the
// code Unavailable where the keys to tell cannot be fetched.
func (a *Authenticator) Verify(ctx context.Context, credential string) (*Identity, error) {
	if who := a.Known([]byte(credential)); who != nil {
		return who, nil
	}
	s := a.state.Load()
	if len(s.issuers) == 0 || strings.Count(credential, ".") != 2 || len(credential) > maxToken {
		return nil, errInvalid
	}
	who, err := s.verify(ctx, credential)
	if err != nil {
		a.opts.Logger.Debug("a token was refused", "error", err)
		switch {
		case errors.Is(err, errNoKeys):
			return nil, serving.Errorf(serving.Unavailable, "%v", errNoKeys)
		case errors.Is(err, jwt.ErrTokenExpired):
			return nil, Expired()
		}
		return nil, errInvalid
	}
	s.tokens.put(digestOf([]byte(credential)), who, a.opts.Now())
	return who, nil
}

// verify has the issuer of a token verify it.
func (s *state) verify(ctx context.Context, token string) (*Identity, error) {
	claims := jwt.MapClaims{}
	// Only to choose the issuer, who then looks at all of it.
	if _, _, err := jwt.NewParser().ParseUnverified(token, claims); err != nil {
		return nil, err
	}
	name, _ := claims["iss"].(string)
	err := fmt.Errorf("the issuer %q is not known", name)
	for _, i := range s.issuers {
		if i.Issuer.Issuer != name {
			continue
		}
		var who *Identity
		if who, err = i.verify(ctx, token); err == nil {
			who.revoked = s.revoked
			return who, s.checkFree(who.Name)
		}
	}
	return nil, err
}

// checkFree refuses the name of a configured caller: an issuer does not say who he is.
func (s *state) checkFree(name string) error {
	_, key := s.config.Keys[name]
	_, certificate := s.config.Certificates[name]
	if key || certificate {
		return fmt.Errorf("the token's name %q is that of a key or certificate; give its issuer a name_prefix", name)
	}
	return nil
}

// Request returns the identity that a request's header Authorization, or else its
// client certificate, shows; or a *Denial.
func (a *Authenticator) Request(r *http.Request) (*Identity, error) {
	switch values := r.Header["Authorization"]; len(values) {
	case 0:
		return a.certificate(r.TLS)
	case 1:
		credential, ok := Bearer([]byte(values[0]))
		if !ok {
			return nil, errInvalid
		}
		return a.Verify(r.Context(), string(credential))
	}
	return nil, errInvalid // which of them would count?
}

func (a *Authenticator) certificate(state *tls.ConnectionState) (*Identity, error) {
	known := a.state.Load().certificates
	for _, name := range certificateNames(state) {
		if who := known[name]; who != nil {
			// The handshake was long ago, perhaps.
			if who = who.until(certificateEnd(state)); who.Ended(a.opts.Now()) {
				return nil, Expired()
			}
			return who, nil
		}
	}
	return nil, errMissing
}

var bearer = []byte("Bearer")

// Bearer returns the credential in a value of the header Authorization, if it is
// one of the scheme Bearer.
func Bearer(value []byte) (credential []byte, ok bool) {
	scheme, credential, _ := bytes.Cut(value, []byte{' '})
	credential = bytes.TrimSpace(credential)
	return credential, bytes.EqualFold(scheme, bearer) && len(credential) > 0
}
