package secure

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// pair writes a certificate that vouches for itself, and its key.
func pair(t *testing.T, cert, key, name string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name, "localhost"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	write(t, cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	write(t, key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw}))
}

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// shake makes a handshake and returns whose certificate the server showed, and both
// sides' errors.
func shake(t *testing.T, server, client *tls.Config) (name string, serverErr, clientErr error) {
	t.Helper()
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	done := make(chan error, 1)
	s := tls.Server(a, server)
	go func() {
		err := s.Handshake()
		_ = a.Close() // also ends a client that waits for what the server makes of its certificate
		done <- err
	}()
	c := tls.Client(b, client)
	if clientErr = c.Handshake(); clientErr == nil {
		name = c.ConnectionState().PeerCertificates[0].Subject.CommonName
	}
	_ = b.Close()
	return name, <-done, clientErr
}

func TestChangedFilesAreRead(t *testing.T) {
	dir := t.TempDir()
	files := Files{Cert: filepath.Join(dir, "cert"), Key: filepath.Join(dir, "key")}
	pair(t, files.Cert, files.Key, "first")
	var log bytes.Buffer
	s, err := Open(files, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	s.now = func() time.Time { return now }
	anyone := &tls.Config{InsecureSkipVerify: true} //nolint:gosec // the test looks at the name itself
	shows := func(want string) {
		t.Helper()
		if name, _, err := shake(t, s.Config("h2"), anyone); name != want || err != nil {
			t.Errorf("the server shows %q, %v; want %q", name, err, want)
		}
	}
	shows("first")
	pair(t, files.Cert, files.Key, "the second")
	shows("first")
	now = now.Add(lookPause)
	shows("the second")
	write(t, files.Key, []byte("broken"))
	now = now.Add(lookPause)
	shows("the second")
	if !strings.Contains(log.String(), "the old one stays") {
		t.Errorf("the log is %s", &log)
	}
	pair(t, files.Cert, files.Key, "third, and well")
	now = now.Add(lookPause)
	shows("third, and well")
}

func TestClientsShowTheirCertificates(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	pair(t, at("cert"), at("key"), "server")
	pair(t, at("client"), at("client.key"), "client")
	pair(t, at("stranger"), at("stranger.key"), "stranger")
	for name, c := range map[string]struct {
		auth, client string
		let          bool
	}{
		"required and good": {"", "client", true}, "required and missing": {"require", "", false}, "required and strange": {"require", "stranger", false},
		"optional and missing": {"optional", "", true}, "optional and strange": {"optional", "stranger", false}, "optional and good": {"optional", "client", true},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := Open(Files{Cert: at("cert"), Key: at("key"), ClientCA: at("client"), ClientAuth: c.auth, MinVersion: "1.3"}, slog.New(slog.DiscardHandler))
			if err != nil {
				t.Fatal(err)
			}
			cert, key := "", ""
			if c.client != "" {
				cert, key = at(c.client), at(c.client+".key")
			}
			client, err := Client(at("cert"), cert, key)
			if err != nil {
				t.Fatal(err)
			}
			client.ServerName = "localhost"
			if len(client.Certificates) > 0 { // whatever the server asks for
				own := client.Certificates[0]
				client.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &own, nil }
			}
			if _, err, _ := shake(t, s.Config("h2"), client); (err == nil) != c.let {
				t.Errorf("the handshake gave %v", err)
			}
			client.MaxVersion = tls.VersionTLS12
			if _, err, _ := shake(t, s.Config("h2"), client); err == nil {
				t.Error("a version that is too old was taken")
			}
		})
	}
}

func TestWrongFiles(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	pair(t, at("cert"), at("key"), "server")
	pair(t, at("other"), at("other.key"), "server")
	for want, files := range map[string]Files{
		"must both be given":           {Cert: at("cert")},
		"cert and key: open":           {Cert: at("cert"), Key: at("missing")},
		"does not match":               {Cert: at("cert"), Key: at("other.key")},
		"client_auth needs client_ca":  {Cert: at("cert"), Key: at("key"), ClientAuth: "require"},
		"client_auth must be":          {Cert: at("cert"), Key: at("key"), ClientCA: at("cert"), ClientAuth: "x"},
		"holds no certificate":         {Cert: at("cert"), Key: at("key"), ClientCA: at("key")},
		`min_version must be "1.2" or`: {Cert: at("cert"), Key: at("key"), MinVersion: "1.1"},
	} {
		if _, err := Open(files, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
}

// A ticket does not outlive those who vouch for its certificate.
func TestAClientWhoseCAWasReplacedDoesNotResume(t *testing.T) {
	for _, version := range []string{"1.2", "1.3"} {
		t.Run(version, func(t *testing.T) {
			dir := t.TempDir()
			at := func(name string) string { return filepath.Join(dir, name) }
			pair(t, at("cert"), at("key"), "server")
			pair(t, at("client"), at("client.key"), "client")
			write(t, at("ca"), read(t, at("client")))
			s, err := Open(Files{Cert: at("cert"), Key: at("key"), ClientCA: at("ca")}, slog.New(slog.DiscardHandler))
			if err != nil {
				t.Fatal(err)
			}
			now := time.Now()
			s.now = func() time.Time { return now }
			client, err := Client(at("cert"), at("client"), at("client.key"))
			if err != nil {
				t.Fatal(err)
			}
			client.ServerName, client.ClientSessionCache = "localhost", tls.NewLRUClientSessionCache(1)
			if version == "1.2" {
				client.MaxVersion = tls.VersionTLS12
			}
			server := s.Config("h2") // one for all connections, as a listener has it
			if resumed, err := converse(t, server, client); resumed || err != nil {
				t.Fatalf("the first connection: resumed %v, %v", resumed, err)
			}
			if resumed, err := converse(t, server, client); !resumed || err != nil {
				t.Fatalf("the second: resumed %v, %v", resumed, err)
			}
			pair(t, at("other"), at("other.key"), "other")
			write(t, at("ca"), read(t, at("other")))
			now = now.Add(lookPause)
			if err := os.Chtimes(at("ca"), now, now); err != nil { // files' times may be coarse
				t.Fatal(err)
			}
			if resumed, err := converse(t, server, client); err == nil {
				t.Errorf("with another CA: resumed %v, no error", resumed)
			}
		})
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// converse makes a connection on which the server says a word, with which its tickets come.
// It returns whether it was resumed, and the server's error.
func converse(t *testing.T, server, client *tls.Config) (resumed bool, serverErr error) {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0") // unlike a pipe it keeps what is not read yet
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	done := make(chan error, 1)
	go func() {
		a, err := listener.Accept()
		if err != nil {
			done <- err
			return
		}
		defer a.Close()
		s := tls.Server(a, server)
		_, err = s.Write([]byte("x"))
		resumed = s.ConnectionState().DidResume
		done <- err
	}()
	b, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	_, _ = tls.Client(b, client).Read(make([]byte, 1)) // the server's error is the one that counts
	err = <-done
	return resumed, err
}
