package admin

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/shoalserve/shoal/internal/serving"
)

func TestASocketIsItsOwnersOnly(t *testing.T) {
	path := socketPath(t)
	l, err := ListenUnix(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for path, want := range map[string]os.FileMode{path: 0o600, filepath.Dir(path): 0o700} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
			t.Errorf("mode of %s is %v, %v; want %v", path, info.Mode(), err, want)
		}
	}
}

// leaveStale leaves a socket behind as a server that was killed does.
func leaveStale(t *testing.T, path string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestAStaleSocketIsReplaced(t *testing.T) {
	path := socketPath(t)
	leaveStale(t, path)
	l, err := ListenUnix(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
}

func TestOnlyOneOfManyTakesAStaleSocket(t *testing.T) {
	path := socketPath(t)
	leaveStale(t, path)
	var starting sync.WaitGroup
	listeners := make(chan net.Listener, 8)
	for range 8 {
		starting.Go(func() {
			if l, err := ListenUnix(path); err == nil {
				listeners <- l
			} else if !strings.Contains(err.Error(), "another server answers") {
				t.Error(err)
			}
		})
	}
	starting.Wait()
	close(listeners)
	if len(listeners) != 1 {
		t.Errorf("%d servers listen", len(listeners))
	}
	for l := range listeners {
		_ = l.Close()
	}
}

func TestALivingSocketIsLeftAlone(t *testing.T) {
	s := serve(t, Options{})
	if _, err := ListenUnix(s.path); err == nil || !strings.Contains(err.Error(), "another server answers") {
		t.Errorf("ListenUnix = %v", err)
	}
	if _, err := s.client.Status(t.Context()); err != nil {
		t.Errorf("the living server is gone: %v", err)
	}
}

func TestAFileIsNotASocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if len(path) > maxSocketPath {
		t.Skip("the temporary directory's path is too long for a socket")
	}
	if _, err := ListenUnix(path); err == nil || !strings.Contains(err.Error(), "not a socket") {
		t.Errorf("ListenUnix = %v", err)
	}
	if content, err := os.ReadFile(path); err != nil || string(content) != "precious" {
		t.Errorf("the file is now %q, %v", content, err)
	}
}

func TestAPathThatIsTooLong(t *testing.T) {
	if _, err := ListenUnix("/" + strings.Repeat("x", 200)); err == nil || !strings.Contains(err.Error(), "shorter") {
		t.Errorf("ListenUnix = %v", err)
	}
}

func TestTCPIsNotServedWithoutAToken(t *testing.T) {
	if _, err := Listen("http://127.0.0.1:0", false, nil); err == nil || !strings.Contains(err.Error(), "token") {
		t.Errorf("Listen = %v", err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := New(Options{Registry: serving.NewRegistry()}).Serve(t.Context(), l); err == nil || !strings.Contains(err.Error(), "token") {
		t.Errorf("Serve = %v", err)
	}
	if conn, err := l.Accept(); err == nil {
		_ = conn.Close()
		t.Error("the listener is still open")
	}
}

func TestListenTakesTheAddressesOfDial(t *testing.T) {
	unix, err := Listen("unix:"+socketPath(t), false, nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = unix.Close()
	tcp, err := Listen("http://127.0.0.1:0", true, nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = tcp.Close()
	if _, err := Listen("127.0.0.1:0", true, nil); err == nil {
		t.Error("an address without a scheme was taken")
	}
}

func TestTheTokenIsAskedForByTCP(t *testing.T) {
	f := New(Options{Registry: serving.NewRegistry(), Token: "secret"})
	l, err := Listen("http://127.0.0.1:0", true, nil)
	if err != nil {
		t.Fatal(err)
	}
	start(t, f, l)
	address := "http://" + l.Addr().String()
	if _, err := dial(t, address, "secret").Status(t.Context()); err != nil {
		t.Errorf("with the token: %v", err)
	}
	for token, part := range map[string]string{"": "wants a token", "Secret": "not this server's", "secret2": "not this server's"} {
		_, err := dial(t, address, token).Status(t.Context())
		wantCode(t, err, serving.Unauthorized, part)
	}
	response, err := http1(t, address+"/v1/status", "Basic secret")
	if err != nil || response.StatusCode != 401 || response.Header.Get("WWW-Authenticate") == "" {
		t.Errorf("with another scheme: %v, %v", response, err)
	}
}

func TestTheTokenIsNotAskedForBySocket(t *testing.T) {
	s := serve(t, Options{Token: "secret"})
	if _, err := s.client.Status(t.Context()); err != nil {
		t.Error(err)
	}
}
