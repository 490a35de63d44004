package admin

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/shoalserve/shoal/internal/auth"
	"github.com/shoalserve/shoal/internal/front/problem"
	"github.com/shoalserve/shoal/internal/serving"
	"github.com/shoalserve/shoal/internal/wire"
)

const (
	// linkProtocol is what a client asks to upgrade to.
	linkProtocol = "shoal-link/3"
	// linger is how long a drained link waits for its client to hang up. A
	// link that closed first could lose the last answers on their way.
	linger = time.Second
)

// link is one connection that carries queries. Its reader owns in, names and lastHead;
// the rest is shared with its writer and with whoever finishes a batch.
//
//	open ──▶ draining (GOODBYE sent, queries are refused) ──▶ finished (all answered) ──▶ gone
//	  └────────────────────── connection lost ──────────────────────────────────────────▶ gone
type link struct {
	front *Front
	who   *auth.Identity
	plain bool // queries must be JSON
	conn  net.Conn
	log   *slog.Logger
	in    *bufio.Reader
	names map[string]string // see name
	held  int               // what a frame that arrives is counted as

	lastHead headCache

	mu       sync.Mutex
	pending  map[uint64]*query // submitted and not answered
	out      outbox
	burst    bool // the reader is busy and will wake the writer before it blocks
	draining bool
	gone     bool
	room     sync.Cond // the outbox got smaller, or the link is gone

	wake chan struct{} // has a token when the writer has something to look at
}

// link answers GET /v1/link and, if the client may have a link, is its reader.
func (f *Front) link(w http.ResponseWriter, r *http.Request) error {
	if !headerHas(r.Header, "Connection", "upgrade") || !headerHas(r.Header, "Upgrade", linkProtocol) {
		w.Header().Set("Upgrade", linkProtocol)
		w.Header().Set("Connection", "Upgrade")
		p := problem.Of(serving.Errorf(serving.InvalidArgument, "send Connection: Upgrade and Upgrade: %s to open a link", linkProtocol))
		p.Title, p.Status = "Upgrade required", http.StatusUpgradeRequired
		f.writeProblem(w, r, p)
		return nil
	}
	l := newLink(f, identityOf(r))
	if !f.register(l) {
		return serving.Errorf(serving.Draining, "the server is shutting down and takes no links")
	}
	defer f.unregister(l)
	if err := l.accept(w); err != nil {
		return fmt.Errorf("opening a link: %w", err)
	}
	defer watch(l.who, func() { l.goodbye("the credential has expired or was taken away") })()
	l.serve()
	return nil
}

// headerHas reports whether a header lists a token, whatever its case.
func headerHas(h http.Header, name, token string) bool {
	for _, line := range h.Values(name) {
		for item := range strings.SplitSeq(line, ",") {
			if strings.EqualFold(strings.TrimSpace(item), token) {
				return true
			}
		}
	}
	return false
}

func newLink(f *Front, who *auth.Identity) *link {
	l := &link{
		front: f, who: who, plain: f.mustBePlain(who), log: f.opts.Logger, names: make(map[string]string),
		pending: make(map[uint64]*query), wake: make(chan struct{}, 1),
	}
	l.room.L = &l.mu
	// The switch goes out by the writer, like all else, so that not even a
	// GOODBYE can come before it.
	encodings := ""
	if l.plain {
		encodings = encodingsHeader + ": json\r\n"
	}
	l.out.early([]byte("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: " + linkProtocol + "\r\n" + encodings + "\r\n"))
	return l
}

// accept takes the connection over from the HTTP server.
func (l *link) accept(w http.ResponseWriter) error {
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return err
	}
	// A client may send its first queries together with the request.
	early, _ := buffered.Reader.Peek(buffered.Reader.Buffered()) // never more than there is
	l.in = bufio.NewReaderSize(io.MultiReader(bytes.NewReader(bytes.Clone(early)), conn), linkReadBuffer)
	l.mu.Lock()
	l.conn = conn
	l.mu.Unlock()
	l.wakeWriter()
	return nil
}

// serve reads until the connection ends; then nobody waits for its queries.
func (l *link) serve() {
	var writer sync.WaitGroup
	writer.Go(l.write)
	defer writer.Wait()
	defer l.abandon() // also if a backend panics: net/http lives on, and so must the rest
	defer l.giveBack()
	l.logEnd(l.read())
}

// abandon closes the connection and withdraws what it still waits for.
func (l *link) abandon() {
	l.mu.Lock()
	l.gone = true
	pending := l.pending
	l.pending = nil
	l.mu.Unlock()
	_ = l.conn.Close() // often it is closed already
	l.wakeWriter()
	for _, q := range pending {
		if q.call.Backend != nil { // else a backend panicked before this one was submitted
			q.call.Withdraw()
		}
		q.together.stopTimer()
	}
}

func (l *link) logEnd(err error) {
	if malformed, ok := errors.AsType[*frameError](err); ok {
		l.log.Warn("link closed: the client sent a malformed frame", "client", l.conn.RemoteAddr(), "error", malformed)
		return
	}
	l.log.Debug("link closed", "client", l.conn.RemoteAddr(), "reason", err)
}

// goodbye tells the client that the server drains. What was accepted is still
// answered; the writer ends the link after the last answer.
func (l *link) goodbye(reason string) {
	raw, err := json.Marshal(struct {
		Reason string `json:"reason"`
	}{reason})
	if err != nil { // a text always can be
		panic(err)
	}
	l.mu.Lock()
	if !l.draining && !l.gone {
		l.draining = true
		l.out.frame(wire.Goodbye, raw)
	}
	l.mu.Unlock()
	l.wakeWriter()
}

// finished reports whether nothing will be sent any more. mu is held.
func (l *link) finished() bool { return l.gone || (l.draining && len(l.pending) == 0) }

// cut ends the link at once.
func (l *link) cut() {
	l.mu.Lock()
	l.gone = true // also stops a reader that waits for room
	conn := l.conn
	l.room.Broadcast()
	l.mu.Unlock()
	if conn != nil {
		_ = conn.Close() // the reader sees it and ends
	}
}

func (l *link) wakeWriter() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// register counts a link, unless the front has closed.
func (f *Front) register(l *link) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return false
	}
	f.links[l] = struct{}{}
	f.open.Add(1)
	return true
}

func (f *Front) unregister(l *link) {
	f.mu.Lock()
	delete(f.links, l)
	f.mu.Unlock()
	f.open.Done()
}

// closeLinks says goodbye on every link and refuses new ones.
func (f *Front) closeLinks(reason string) {
	for _, l := range f.close() {
		l.goodbye(reason)
	}
}

// close refuses new links and returns those that are open.
func (f *Front) close() []*link {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	return slices.Collect(maps.Keys(f.links))
}
