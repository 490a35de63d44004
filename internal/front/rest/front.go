package rest

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/shoalserve/shoal/internal/auth"
	"github.com/shoalserve/shoal/internal/front/door"
	"github.com/shoalserve/shoal/internal/front/problem"
	"github.com/shoalserve/shoal/internal/serving"
	"github.com/shoalserve/shoal/internal/telemetry"
)

// Options configure a Front. Zero fields take their defaults.
type Options struct {
	// MaxBodyBytes bounds a request's body. Default 10 MiB.
	MaxBodyBytes int64
	// MaxHeaderBytes bounds a request's headers. Default 64 KiB.
	MaxHeaderBytes int
	// ReadHeaderTimeout bounds the reading of a request's headers. Default 5s.
	ReadHeaderTimeout time.Duration
	// ReadTimeout bounds the reading of a whole request. Default 60s.
	ReadTimeout time.Duration
	// IdleTimeout is how long a connection may stay without a request. Default 120s.
	IdleTimeout time.Duration
	// WriteTimeout is how long a client that reads none of its answer, or of a MiB of
	// it, may keep it waiting. Default 60s.
	WriteTimeout time.Duration
	// ShutdownTimeout bounds how long accepted queries may take once the server
	// is to stop. Default 30s.
	ShutdownTimeout time.Duration
	// OnlyNetHTTP has net/http serve all connections. Else, on Linux, plain
	// HTTP/1.1 queries are served by event loops, and net/http serves the rest.
	OnlyNetHTTP bool
	// NoServerTiming leaves the header Server-Timing out of answers.
	NoServerTiming bool
	Logger         *slog.Logger
	Metrics        *telemetry.Metrics
	// Prober decides what /readyz says; default one of the registry.
	Prober *serving.Prober
	// TLS, if given, is for all connections, which net/http then serves.
	TLS *tls.Config
	// Auth tells who may ask what; without one everybody may ask all.
	Auth *auth.Authenticator
	// MaxInflightBytes bounds the memory of all bodies that are still arriving.
	// Default 1 GiB.
	MaxInflightBytes int64
	// MaxConnections bounds the connections that are open; when there are as many, idle
	// ones make room for others. Default 10,000.
	MaxConnections int
}

func (o Options) withDefaults(r *serving.Registry) Options {
	o.MaxBodyBytes = cmp.Or(o.MaxBodyBytes, 10<<20)
	o.MaxHeaderBytes = cmp.Or(o.MaxHeaderBytes, 64<<10)
	o.ReadHeaderTimeout = cmp.Or(o.ReadHeaderTimeout, 5*time.Second)
	o.ReadTimeout = cmp.Or(o.ReadTimeout, 60*time.Second)
	o.IdleTimeout = cmp.Or(o.IdleTimeout, 120*time.Second)
	o.WriteTimeout = cmp.Or(o.WriteTimeout, 60*time.Second)
	o.ShutdownTimeout = cmp.Or(o.ShutdownTimeout, 30*time.Second)
	o.MaxInflightBytes = cmp.Or(o.MaxInflightBytes, door.DefaultBytes)
	o.MaxConnections = cmp.Or(o.MaxConnections, 10_000)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Metrics == nil {
		o.Metrics = telemetry.New()
	}
	if o.Prober == nil {
		o.Prober = serving.NewProber(r)
	}
	return o
}

// Front serves the endpoints of a registry over HTTP.
type Front struct {
	registry *serving.Registry
	opts     Options
	metrics  *telemetry.Routes
	own      *http.ServeMux // the paths of the server itself
	ready    *readiness
	failures *problem.Failures
	draining atomic.Bool
	date     dateText
	unsent   atomic.Int64 // bytes of answers that wait for clients to read

	arriving    *door.Bytes // bodies
	connections *door.Connections
}

// maxUnsent bounds the bytes that all slow clients together may leave unread.
const maxUnsent = 256 << 20

var errUnsent = errors.New("too many bytes wait for clients that do not read")

// New returns a Front for what is deployed in r.
func New(r *serving.Registry, opts Options) *Front {
	opts = opts.withDefaults(r)
	f := &Front{registry: r, opts: opts, metrics: opts.Metrics.Routes(), ready: newReadiness(opts.Prober, opts.Logger), failures: problem.NewFailures(opts.Logger)}
	f.own = f.ownPaths()
	f.arriving = door.NewBytes(opts.MaxInflightBytes)
	refused := func() { opts.Metrics.Refused("http", "connections") }
	say := tooManyConnections()
	if opts.TLS != nil { // it could not be told before a handshake, which is what costs
		say = nil
	}
	f.connections = door.NewConnections(int64(opts.MaxConnections), say, refused, opts.Logger)
	opts.Metrics.WatchHTTP(f.connections.Open, f.arriving.Held)
	return f
}

// Handler returns the Front as a handler.
func (f *Front) Handler() http.Handler { return http.HandlerFunc(f.serveHTTP) }

// Serve serves HTTP/1.1 and cleartext HTTP/2 on a listener until ctx ends. Then
// it refuses new requests, finishes the accepted ones, and returns nil, or an
// error if Options.ShutdownTimeout was not enough.
func (f *Front) Serve(ctx context.Context, listener net.Listener) error {
	defer f.connections.Wait()
	server := f.server()
	plain, rest := f.split(listener)
	if f.opts.TLS != nil {
		rest = tls.NewListener(rest, f.opts.TLS)
	}
	served := make(chan error, 2)
	go func() { served <- server.Serve(rest) }() // ends with Shutdown or Close below
	go func() { served <- plain.serve() }()      // ends with drain or close below
	select {
	case err := <-served:
		err = errors.Join(fmt.Errorf("serving HTTP: %w", err), server.Close(), plain.close())
		<-served //nolint:errcheck // says only that it was closed
		return err
	case <-ctx.Done():
	}
	f.draining.Store(true)
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), f.opts.ShutdownTimeout)
	defer cancel()
	plain.drain() // before the rest: it may hand connections over
	stopped := make(chan error, 1)
	go func() { stopped <- shutdown(grace, server) }()
	err := errors.Join(plain.wait(grace), <-stopped)
	if err != nil {
		err = errors.Join(fmt.Errorf("not all requests were answered within %v: %w", f.opts.ShutdownTimeout, err), server.Close(), plain.close())
	}
	for range cap(served) {
		<-served //nolint:errcheck // says only that it was closed
	}
	return err
}

func (f *Front) server() *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(f.opts.TLS == nil)
	return &http.Server{
		Handler: http.HandlerFunc(f.servePaced), TLSConfig: f.opts.TLS, Protocols: protocols, MaxHeaderBytes: f.opts.MaxHeaderBytes,
		HTTP2: http2Limits(f.opts), ReadHeaderTimeout: f.opts.ReadHeaderTimeout, ReadTimeout: f.opts.ReadTimeout, IdleTimeout: f.opts.IdleTimeout,
		ConnState: f.connState,
		ErrorLog:  slog.NewLogLogger(f.opts.Logger.Handler(), slog.LevelWarn),
	}
}

// connState tells the door which connections of net/http wait for a request. Those that
// a loop handed over brought one.
func (f *Front) connState(conn net.Conn, state http.ConnState) {
	if _, handed := conn.(*replayed); !handed || state != http.StateNew {
		f.connections.State(conn, state)
	}
}

// http2Limits bounds what a connection holds of which nobody knows yet: a request is
// counted once its headers are whole.
func http2Limits(o Options) *http.HTTP2Config {
	return &http.HTTP2Config{
		MaxConcurrentStreams: maxStreams, MaxReadFrameSize: 16 << 10, // the least that there is
		MaxReceiveBufferPerConnection: 1 << 20, MaxReceiveBufferPerStream: 256 << 10, MaxDecoderHeaderTableSize: 4 << 10,
		WriteByteTimeout: o.WriteTimeout,
	}
}

// maxStreams is how many requests an HTTP/2 client has under way on a connection. RFC
// 9113 wants no fewer.
const maxStreams = 100

// split returns who serves the plain requests on a listener, and a listener for
// net/http to serve all others on.
func (f *Front) split(listener net.Listener) (plainServer, net.Listener) {
	if !f.opts.OnlyNetHTTP && f.opts.TLS == nil {
		plain, rest, err := f.loops(listener)
		if err == nil {
			return plain, rest
		}
		f.opts.Logger.Warn("net/http serves all requests", "error", err)
	}
	return newNobody(), f.connections.Listen(listener)
}

// plainServer serves plain requests.
type plainServer interface {
	// serve returns when the listener fails, or after drain or close.
	serve() error
	// drain closes the listener and the connections without a request.
	drain()
	// wait returns when all requests are answered, or with an error when ctx ends.
	wait(ctx context.Context) error
	// close ends all connections.
	close() error
}

// nobody serves no requests.
type nobody struct {
	over chan struct{}
	end  func()
}

func newNobody() nobody {
	over := make(chan struct{})
	return nobody{over, sync.OnceFunc(func() { close(over) })}
}

func (n nobody) serve() error {
	<-n.over
	return http.ErrServerClosed
}

func (n nobody) drain() { n.end() }

func (n nobody) wait(context.Context) error { return nil }

func (n nobody) close() error {
	n.end()
	return nil
}

// shutdown does what [http.Server.Shutdown] does, again and again: an HTTP/2
// connection that was being set up at the time would never be told to end
// (https://go.dev/issue/81153).
func shutdown(ctx context.Context, server *http.Server) error {
	for {
		round, cancel := context.WithTimeout(ctx, 250*time.Millisecond)
		err := server.Shutdown(round)
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil {
			return err
		}
	}
}
