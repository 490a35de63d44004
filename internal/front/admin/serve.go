package admin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/shoalserve/shoal/internal/serving"
)

const (
	headerTimeout = 10 * time.Second
	idleTimeout   = 2 * time.Minute
	maxHeader     = 64 << 10
)

// errOpen refuses to serve whoever can reach a TCP port.
var errOpen = errors.New("the admin API is served by TCP only with a token, or with auth: anyone who reaches it can run code")

// Serve serves the admin API on a listener until ctx ends. Then it takes no
// more, says goodbye on every link, waits for what was accepted, at most
// Options.ShutdownTimeout, and returns nil if all of it was answered. Serve may
// be called for several listeners; they end together.
func (f *Front) Serve(ctx context.Context, l net.Listener) error {
	if l.Addr().Network() != "unix" && f.token.Load().text == "" && f.opts.Auth == nil {
		return errors.Join(errOpen, l.Close())
	}
	server := &http.Server{
		Handler: f.Handler(), ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeader,
		ConnContext: withPeer,
		ErrorLog:    slog.NewLogLogger(f.opts.Logger.Handler(), slog.LevelWarn),
	}
	if counts(l) {
		server.ConnState = f.connections.State
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(f.counted(l)) }()
	select {
	case err := <-served:
		return errors.Join(fmt.Errorf("serving the admin API: %w", err), f.shutdown(ctx, server))
	case <-ctx.Done():
	}
	err := f.shutdown(ctx, server)
	<-served //nolint:errcheck // says only that the server was closed
	return err
}

// shutdown ends what can wait, waits for the rest, and cuts what takes too long.
func (f *Front) shutdown(ctx context.Context, server *http.Server) error {
	const reason = "the server is shutting down"
	f.drain(serving.Errorf(serving.Draining, reason))
	f.closeLinks(reason)
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), f.opts.ShutdownTimeout)
	defer cancel()
	err := server.Shutdown(grace)
	if err != nil {
		err = errors.Join(err, server.Close())
	}
	if err = errors.Join(err, f.awaitLinks(grace)); err != nil {
		return fmt.Errorf("not all admin calls were finished %v after the shutdown began: %w", f.opts.ShutdownTimeout, err)
	}
	return nil
}

// awaitLinks returns when all links are gone; those that are left when ctx ends
// are cut.
func (f *Front) awaitLinks(ctx context.Context) error {
	gone := make(chan struct{})
	go func() {
		f.open.Wait()
		close(gone)
	}()
	select {
	case <-gone:
		return nil
	case <-ctx.Done():
	}
	left := f.close()
	for _, l := range left {
		l.cut()
	}
	<-gone
	return fmt.Errorf("%d links were cut: %w", len(left), context.Cause(ctx))
}
