package rest

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/shoalserve/shoal/batch"
	"github.com/shoalserve/shoal/internal/front/problem"
	"github.com/shoalserve/shoal/internal/serving"
)

// patience bounds waits that are never reached when all is well, also where other programs
// have the processors for most of the time.
const patience = time.Minute

// fake is a backend that holds every call until the test answers it, unless
// submit is set, which then is all that Submit does.
type fake struct {
	name    string
	methods []string
	example *serving.Example
	config  serving.Config
	submit  func(*serving.Call) error
	stuck   bool // calls cannot be withdrawn: they run

	held      chan *serving.Call // each call that is submitted
	withdrawn chan *serving.Call // each call that its caller gave up

	mu      sync.Mutex
	waiting map[*serving.Call]bool
	state   serving.State
}

func newFake(name string, submit func(*serving.Call) error) *fake {
	return &fake{
		name: name, methods: []string{"GET", "POST"}, submit: submit, state: serving.StateReady,
		config: serving.Config{Timeout: serving.Duration(time.Minute)},
		held:   make(chan *serving.Call, 1000), withdrawn: make(chan *serving.Call, 1000), waiting: make(map[*serving.Call]bool),
	}
}

// answering makes a backend that answers all calls alike, at once.
func answering(name string, r serving.Response) *fake {
	return newFake(name, func(c *serving.Call) error { return answer(c, r, nil) })
}

// failing makes a backend whose calls all fail in a batch.
func failing(name string, err error) *fake {
	return newFake(name, func(c *serving.Call) error { return answer(c, serving.Response{}, err) })
}

// answer answers a call as a replica does.
func answer(c *serving.Call, r serving.Response, err error) error {
	c.Response, c.Err = r, err
	c.Trip = batch.Trip{Queued: 412 * time.Microsecond, Computed: 5031 * time.Microsecond, BatchID: 17, BatchSize: 4, Reason: batch.Full}
	c.Done(c)
	return nil
}

func text(s string) serving.Response { return serving.Response{Format: serving.Text, Body: []byte(s)} }

func (b *fake) Name() string                                     { return b.name }
func (b *fake) Kind() string                                     { return "go" }
func (b *fake) Prompt() bool                                     { return front != frontAside }
func (b *fake) Config() serving.Config                           { return b.config }
func (b *fake) Update(_ context.Context, _ serving.Config) error { return nil }
func (b *fake) Close(context.Context) error                      { return nil }
func (b *fake) build(context.Context) (serving.Backend, error)   { return b, nil }
func (b *fake) respond(c *serving.Call, r serving.Response) error {
	b.take(c)
	return answer(c, r, nil)
}

func (b *fake) Status() serving.BackendStatus {
	b.mu.Lock()
	defer b.mu.Unlock()
	return serving.BackendStatus{Name: b.name, Kind: "go", State: b.state}
}

func (b *fake) become(s serving.State) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.state = s
}

func (b *fake) Submit(c *serving.Call) error {
	if err := c.Request.CheckBody(); err != nil {
		return err
	}
	if b.submit != nil {
		return b.submit(c)
	}
	b.mu.Lock()
	b.waiting[c] = true
	b.mu.Unlock()
	b.held <- c
	return nil
}

// take takes a call out of those that wait.
func (b *fake) take(c *serving.Call) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	waits := b.waiting[c]
	delete(b.waiting, c)
	return waits
}

func (b *fake) Withdraw(c *serving.Call) bool {
	withdrawn := !b.stuck && b.take(c)
	b.withdrawn <- c
	return withdrawn
}

// server is a Front on a real socket.
type server struct {
	*Front
	t        testing.TB
	registry *serving.Registry
	addr     string
	client   *http.Client // keeps connections
	stop     func() error // ends Serve and returns its error
	asked    bool         // stop was called: the test looks at its error
	log      *log
}

// log keeps what was logged.
type log struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// serve serves each backend at the route of its name, until the test ends.
func serve(t testing.TB, opts Options, backends ...*fake) *server {
	t.Helper()
	s := &server{t: t, registry: serving.NewRegistry(), log: &log{}}
	for _, b := range backends {
		s.deploy(b)
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.NewJSONHandler(s.log, nil))
	}
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	poisoned.Store(true)
	opts.OnlyNetHTTP = opts.OnlyNetHTTP || front == frontNetHTTP
	s.Front, s.addr = New(s.registry, opts), listener.Addr().String()
	transport := &http.Transport{MaxIdleConnsPerHost: 100, DisableCompression: true}
	s.client = &http.Client{Transport: transport, Timeout: patience, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, listener) }()
	stop := sync.OnceValue(func() error {
		cancel()
		return <-done
	})
	s.stop = func() error {
		s.asked = true
		return stop()
	}
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		if err := stop(); err != nil && !s.asked {
			t.Errorf("Serve: %v", err)
		}
		if err := s.registry.Close(context.Background()); err != nil {
			t.Errorf("closing the registry: %v", err)
		}
	})
	return s
}

func (s *server) deploy(b *fake) {
	s.t.Helper()
	if _, err := s.registry.Deploy(context.Background(), b.name, false, b.build); err != nil {
		s.t.Fatal(err)
	}
	spec := serving.EndpointSpec{Backend: b.name, Route: "/" + b.name, Methods: b.methods, Example: b.example}
	if _, err := s.registry.CreateEndpoint(b.name, spec); err != nil {
		s.t.Fatal(err)
	}
}

// reply is an answer with its body read.
type reply struct {
	*http.Response
	body string
}

// ask sends a request; header holds names and values in turn.
func (s *server) ask(method, path, body string, header ...string) reply {
	s.t.Helper()
	got, err := s.try(method, path, body, header...)
	if err != nil {
		s.t.Fatalf("%s %s: %v", method, path, err)
	}
	return got
}

func (s *server) try(method, path, body string, header ...string) (reply, error) {
	var from io.Reader
	if body != "" {
		from = strings.NewReader(body)
	}
	r, err := http.NewRequestWithContext(context.Background(), method, "http://"+s.addr+path, from)
	if err != nil {
		return reply{}, err
	}
	for i := 0; i < len(header); i += 2 {
		r.Header[header[i]] = append(r.Header[header[i]], header[i+1])
	}
	return send(s.client, r)
}

func send(c *http.Client, r *http.Request) (reply, error) {
	response, err := c.Do(r)
	if err != nil {
		return reply{}, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return reply{response, string(body)}, err
}

// problem checks that an answer is a problem of a status and code.
func (s *server) problem(got reply, status int, code serving.Code) problem.Problem {
	s.t.Helper()
	var p problem.Problem
	if err := json.Unmarshal([]byte(got.body), &p); err != nil {
		s.t.Fatalf("status %d, body %q is no problem: %v", got.StatusCode, got.body, err)
	}
	if got.StatusCode != status || p.Status != status || p.Code != code {
		s.t.Errorf("got status %d, problem %+v, want %d, %s", got.StatusCode, p, status, code)
	}
	if kind := got.Header.Get("Content-Type"); kind != problem.ContentType {
		s.t.Errorf("content type %q", kind)
	}
	return p
}

// dial opens a connection for requests that no proper client sends.
func (s *server) dial() (net.Conn, *bufio.Reader) {
	s.t.Helper()
	conn, err := (&net.Dialer{}).DialContext(s.t.Context(), "tcp", s.addr)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		s.t.Fatal(err)
	}
	return conn, bufio.NewReader(conn)
}

func (s *server) write(conn net.Conn, text string) {
	s.t.Helper()
	if _, err := io.WriteString(conn, text); err != nil {
		s.t.Fatal(err)
	}
}

// read reads one response from a connection.
func (s *server) read(from *bufio.Reader) reply {
	s.t.Helper()
	response, err := http.ReadResponse(from, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	// net/http closes on a request that makes no sense without reading the rest, which
	// the kernel may tell as a reset.
	untilItEnds := response.ContentLength < 0 && len(response.TransferEncoding) == 0
	if err != nil && !(untilItEnds && errors.Is(err, syscall.ECONNRESET)) {
		s.t.Fatal(err)
	}
	return reply{response, string(body)}
}

// next waits for something that is to happen.
func next[T any](t testing.TB, what string, from <-chan T) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(patience):
		t.Fatalf("waited in vain for %s", what)
		panic("unreachable")
	}
}
