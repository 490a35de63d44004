package admin

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/shoalserve/shoal/batch"
	"github.com/shoalserve/shoal/internal/artifact"
	"github.com/shoalserve/shoal/internal/runtime/python"
	"github.com/shoalserve/shoal/internal/serving"
)

// patience bounds waits that are never reached when all is well, also where other programs
// have the processors for most of the time.
const patience = time.Minute

// fakeBackend holds every call until the test releases it, unless respond is
// set, which then answers within Submit.
type fakeBackend struct {
	name    string
	respond func(*serving.Call)
	refusal error // of Submit
	stuck   bool  // calls cannot be withdrawn: they are running

	held      chan *serving.Call // each call that was submitted and not answered
	withdrawn chan *serving.Call // each call that was withdrawn

	mu      sync.Mutex
	config  serving.Config
	waiting map[*serving.Call]bool
	closed  bool
	gone    func() // is called by Close; may be nil
}

func newFake(name string) *fakeBackend {
	return &fakeBackend{
		name: name, config: serving.Config{Timeout: serving.Duration(time.Minute)},
		held: make(chan *serving.Call, 1000), withdrawn: make(chan *serving.Call, 1000), waiting: make(map[*serving.Call]bool),
	}
}

func (b *fakeBackend) Name() string { return b.name }
func (b *fakeBackend) Kind() string { return "python" }

func (b *fakeBackend) Config() serving.Config {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.config
}

func (b *fakeBackend) Submit(c *serving.Call) error {
	b.mu.Lock()
	if b.closed || b.refusal != nil {
		defer b.mu.Unlock()
		if b.closed {
			return batch.ErrDraining
		}
		return b.refusal
	}
	respond := b.respond
	if respond == nil {
		b.waiting[c] = true
	}
	b.mu.Unlock()
	if respond != nil {
		respond(c)
		c.Done(c)
		return nil
	}
	b.held <- c
	return nil
}

func (b *fakeBackend) Withdraw(c *serving.Call) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.stuck || !b.waiting[c] {
		return false
	}
	delete(b.waiting, c)
	b.withdrawn <- c
	return true
}

// release answers a call that is held.
func (b *fakeBackend) release(c *serving.Call, answer serving.Response, err error) {
	b.mu.Lock()
	waiting := b.waiting[c]
	delete(b.waiting, c)
	b.mu.Unlock()
	if waiting {
		c.Response, c.Err = answer, err
		c.Done(c)
	}
}

func (b *fakeBackend) Update(_ context.Context, next serving.Config) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.config = next
	return nil
}

func (b *fakeBackend) Status() serving.BackendStatus {
	return serving.BackendStatus{Name: b.name, Kind: "python", State: serving.StateReady, Config: b.Config(), Replicas: []serving.ReplicaStatus{}}
}

func (b *fakeBackend) Close(context.Context) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	if b.gone != nil {
		b.gone()
	}
	return nil
}

// deployFunc is a Deployer.
type deployFunc func(ctx context.Context, name string, spec python.Spec, config serving.Config) (serving.Backend, error)

func (f deployFunc) Redeploy(ctx context.Context, _ serving.Backend, name string, spec python.Spec, config serving.Config) (serving.Backend, error) {
	return f(ctx, name, spec, config)
}

// server is a Front on a Unix socket with a client.
type server struct {
	*Front
	registry *serving.Registry
	path     string
	client   *Client
	stop     func() error // ends Serve and returns its error
}

// serve starts a server that is stopped, and must stop well, with the test.
func serve(t testing.TB, opts Options) *server {
	t.Helper()
	s := &server{registry: serving.NewRegistry(), path: socketPath(t)}
	store, err := artifact.OpenDir(filepath.Join(t.TempDir(), "artifacts"), 0)
	if err != nil {
		t.Fatal(err)
	}
	opts.Registry, opts.Version = s.registry, "1.2.3"
	if opts.Artifacts == nil {
		opts.Artifacts = store
	}
	s.Front = New(opts)
	l, err := ListenUnix(s.path)
	if err != nil {
		t.Fatal(err)
	}
	s.client = dial(t, "unix:"+s.path, "")
	s.stop = start(t, s.Front, l)
	t.Cleanup(func() {
		if err := s.registry.Close(context.Background()); err != nil {
			t.Errorf("closing the registry: %v", err)
		}
	})
	return s
}

// start runs Serve and returns what ends it, which the end of the test does too.
func start(t testing.TB, f *Front, l net.Listener) (stop func() error) {
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- f.Serve(ctx, l) }()
	stop = sync.OnceValue(func() error {
		cancel()
		return <-served
	})
	t.Cleanup(func() { _ = stop() }) // tests that care look at it themselves
	return stop
}

// socketPath is short enough for a socket, as t.TempDir is not everywhere.
func socketPath(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "shoal")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return filepath.Join(dir, "run", "admin.sock")
}

func dial(t testing.TB, address, token string) *Client {
	t.Helper()
	c, err := Dial(address, token, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// deploy puts a backend behind an endpoint of the name "e".
func (s *server) deploy(t testing.TB, b serving.Backend) {
	t.Helper()
	_, err := s.registry.Deploy(context.Background(), b.Name(), true, func(context.Context) (serving.Backend, error) { return b, nil })
	if err == nil {
		_, err = s.registry.CreateEndpoint("e", serving.EndpointSpec{Backend: b.Name()})
	}
	if err != nil {
		t.Fatal(err)
	}
}

// raw makes a request without the Client.
func (s *server) raw(t *testing.T, method, path, body string) *http.Response {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, s.client.base+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	response, err := s.client.http.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = response.Body.Close() })
	return response
}

func text(t *testing.T, r io.Reader) string {
	t.Helper()
	raw, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// next receives from a channel and fails the test if nothing comes.
func next[T any](t *testing.T, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		t.Fatal("nothing came")
		panic("unreachable")
	}
}

func codeOf(err error) serving.Code {
	if own, ok := errors.AsType[*serving.Error](err); ok {
		return own.Code
	}
	return ""
}

func wantCode(t *testing.T, err error, code serving.Code, parts ...string) {
	t.Helper()
	if codeOf(err) != code {
		t.Errorf("error is %v (%T), want code %s", err, err, code)
		return
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error %q does not say %q", err, part)
		}
	}
}
