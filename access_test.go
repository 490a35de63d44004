package shoal_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/shoalserve/shoal"
)

// certificate writes one that vouches for itself, and returns it with its files.
func certificate(t *testing.T, name string) (pair tls.Certificate, files shoal.TLSFiles) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	key, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	files = shoal.TLSFiles{Cert: filepath.Join(t.TempDir(), "cert.pem"), Key: filepath.Join(t.TempDir(), "key.pem")}
	certPEM, keyPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})
	for path, data := range map[string][]byte{files.Cert: certPEM, files.Key: keyPEM} {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if pair, err = tls.X509KeyPair(certPEM, keyPEM); err != nil {
		t.Fatal(err)
	}
	return pair, files
}

func TestAnAppWithTLSAndClientCertificates(t *testing.T) {
	server, files := certificate(t, "server")
	client, theirs := certificate(t, "gateway")
	files.ClientCA = theirs.Cert
	secure, err := shoal.OpenTLS(files, nil)
	if err != nil {
		t.Fatal(err)
	}
	grant := shoal.Grant{Scopes: []shoal.Scope{shoal.ScopeQuery}}
	config := shoal.AuthConfig{Certificates: map[string]shoal.Certificate{"alice": {Subject: "gateway", Grant: grant}}}
	auth, err := shoal.NewAuth(config, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer auth.Close()
	app := shoal.New(shoal.Options{Auth: auth, TLS: secure})
	defer app.Close(context.Background()) //nolint:errcheck // the test is over
	if err := app.CreateBackend(t.Context(), "m", constant("hello"), shoal.Config{}); err != nil {
		t.Fatal(err)
	}
	if err := app.CreateEndpoint("m", shoal.Endpoint{Backend: "m", Route: "/m"}); err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- app.Serve(ctx, listener) }()
	defer func() {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
	}()
	roots := x509.NewCertPool()
	roots.AddCert(server.Leaf)
	transport := &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{client}}}
	defer transport.CloseIdleConnections()
	ask := func(transport *http.Transport) (status int, proto, body string, err error) {
		response, err := (&http.Client{Transport: transport}).Get("https://" + listener.Addr().String() + "/m?n=1")
		if err != nil {
			return 0, "", "", err
		}
		defer response.Body.Close()
		raw, err := io.ReadAll(response.Body)
		return response.StatusCode, response.Proto, string(raw), err
	}
	if status, proto, body, err := ask(transport); status != 200 || proto != "HTTP/2.0" || body != "hello" || err != nil {
		t.Errorf("got %d over %s, %s, %v", status, proto, body, err)
	}
	without := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}
	if status, _, _, err := ask(without); err == nil {
		t.Errorf("without a certificate: %d", status)
	}
	config.Certificates = map[string]shoal.Certificate{"bob": {Grant: grant}}
	if err := auth.Reload(config); err != nil {
		t.Fatal(err)
	}
	if status, _, body, _ := ask(transport); status != 401 {
		t.Errorf("a certificate that is not known any more: %d %s", status, body)
	}
}

func TestWhatIsWrongWithCredentialsAndCertificatesIsSaid(t *testing.T) {
	if _, err := shoal.NewAuth(shoal.AuthConfig{}, nil); err == nil || !strings.Contains(err.Error(), "names no credential") {
		t.Errorf("no credentials: %v", err)
	}
	_, err := shoal.NewAuth(shoal.AuthConfig{Keys: map[string]shoal.Key{"alice": {SHA256: "x", Grant: shoal.Grant{Scopes: []shoal.Scope{"everything"}}}}}, nil)
	if err == nil || !strings.Contains(err.Error(), "64 hex digits") || !strings.Contains(err.Error(), `"everything" is no scope`) {
		t.Errorf("a bad key: %v", err)
	}
	if _, err := shoal.OpenTLS(shoal.TLSFiles{Cert: "nowhere.pem", Key: "nowhere.pem"}, nil); err == nil || !strings.Contains(err.Error(), "nowhere.pem") {
		t.Errorf("no files: %v", err)
	}
}

// An Auth that was forgotten to be filled must not be an open door.
func TestAnAppRefusesCredentialsAndCertificatesThatNobodyMade(t *testing.T) {
	for what, opts := range map[string]shoal.Options{"NewAuth": {Auth: &shoal.Auth{}}, "OpenTLS": {TLS: &shoal.TLS{}}} {
		func() {
			defer func() {
				if said, _ := recover().(string); !strings.Contains(said, "must be made by "+what) {
					t.Errorf("want a panic that names %s, got %q", what, said)
				}
			}()
			shoal.New(opts)
		}()
	}
}
