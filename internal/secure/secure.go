// Package secure makes TLS of files, and reads them again when they change.
package secure

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
)

// Files are where a server's certificate is, and how clients are to show theirs.
type Files struct {
	// Cert and Key are in PEM; Cert may go on with the chain.
	Cert string `json:"cert"`
	Key  string `json:"key"`
	// ClientCA holds the certificates, in PEM, of those who vouch for clients.
	ClientCA string `json:"client_ca"`
	// ClientAuth is "require" or "optional". Default "require" with a ClientCA.
	ClientAuth string `json:"client_auth"`
	// MinVersion is "1.2" or "1.3". Default "1.2".
	MinVersion string `json:"min_version"`
}

// lookPause is the least time between two looks at the files.
const lookPause = time.Second

// Source has the TLS of files as they are. It looks at them when a connection
// comes, once a second at most; what cannot be read changes nothing.
type Source struct {
	files  Files
	log    *slog.Logger
	now    func() time.Time
	mu     sync.Mutex
	seen   [3]stamp
	looked time.Time
	config *tls.Config
}

// stamp tells whether a file has changed.
type stamp struct {
	modified time.Time
	size     int64
}

// Open reads the files. An error says what is wrong with which.
func Open(files Files, log *slog.Logger) (*Source, error) {
	s := &Source{files: files, log: log, now: time.Now}
	s.seen, s.looked = s.stamps(), s.now()
	var err error
	s.config, err = files.load()
	return s, err
}

// Config is TLS whose certificates are always those of the files. protocols are for
// ALPN, the best one first.
func (s *Source) Config(protocols ...string) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: protocols,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			c := s.current().Clone()
			c.NextProtos = protocols
			return c, nil
		},
		// Not used, but its presence is what http.Server looks for.
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &s.current().Certificates[0], nil },
	}
}

func (s *Source) current() *tls.Config {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := s.now(); now.Sub(s.looked) >= lookPause {
		s.looked = now
		if seen := s.stamps(); seen != s.seen {
			s.reload(seen)
		}
	}
	return s.config
}

// reload reads files that have changed. mu is held.
func (s *Source) reload(seen [3]stamp) {
	s.seen = seen // also if they are wrong: they are looked at again when they change
	next, err := s.files.load()
	if err != nil {
		s.log.Error("the changed certificate cannot be used; the old one stays", "error", err)
		return
	}
	s.config = next
	s.log.Info("the certificate was read again", "cert", s.files.Cert)
}

func (s *Source) stamps() (stamps [3]stamp) {
	for i, path := range []string{s.files.Cert, s.files.Key, s.files.ClientCA} {
		if info, err := os.Stat(path); err == nil {
			stamps[i] = stamp{info.ModTime(), info.Size()}
		}
	}
	return stamps
}

func (f Files) load() (*tls.Config, error) {
	if f.Cert == "" || f.Key == "" {
		return nil, errors.New("tls: cert and key must both be given")
	}
	pair, err := tls.LoadX509KeyPair(f.Cert, f.Key)
	if err != nil {
		return nil, fmt.Errorf("tls: cert and key: %w", err)
	}
	c := &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	switch f.MinVersion {
	case "", "1.2":
	case "1.3":
		c.MinVersion = tls.VersionTLS13
	default:
		return nil, fmt.Errorf("tls: min_version must be \"1.2\" or \"1.3\", not %q", f.MinVersion)
	}
	return c, f.addClients(c)
}

// addClients says how clients are to show who they are.
func (f Files) addClients(c *tls.Config) error {
	switch {
	case f.ClientCA == "" && f.ClientAuth != "":
		return errors.New("tls: client_auth needs client_ca, the certificates of those who vouch for clients")
	case f.ClientCA == "":
		return nil
	}
	c.ClientAuth = tls.RequireAndVerifyClientCert
	switch f.ClientAuth {
	case "", "require":
	case "optional":
		c.ClientAuth = tls.VerifyClientCertIfGiven
	default:
		return fmt.Errorf("tls: client_auth must be \"require\" or \"optional\", not %q", f.ClientAuth)
	}
	raw, err := os.ReadFile(f.ClientCA)
	if err != nil {
		return fmt.Errorf("tls: client_ca: %w", err)
	}
	c.ClientCAs = x509.NewCertPool()
	if !c.ClientCAs.AppendCertsFromPEM(raw) {
		return fmt.Errorf("tls: client_ca: %s holds no certificate in PEM", f.ClientCA)
	}
	return nil
}

// Client is TLS for clients: ca vouches for the server, in place of the system's,
// and cert and key are the client's own; each may be empty.
func Client(ca, cert, key string) (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if ca != "" {
		raw, err := os.ReadFile(ca)
		if err != nil {
			return nil, fmt.Errorf("reading who vouches for servers: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(raw) {
			return nil, fmt.Errorf("%s holds no certificate in PEM", ca)
		}
	}
	if cert != "" || key != "" {
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			return nil, fmt.Errorf("the client's certificate and key: %w", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}
