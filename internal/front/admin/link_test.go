package admin

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/shoalserve/shoal/batch"
	"github.com/shoalserve/shoal/internal/serving"
	"github.com/shoalserve/shoal/internal/wire"
)

// linkClient is the other side of a link, as plain as can be.
type linkClient struct {
	net.Conn
	in *bufio.Reader
}

const upgrade = "GET /v1/link HTTP/1.1\r\nHost: shoal\r\nConnection: keep-alive, Upgrade\r\nUpgrade: shoal-link/1\r\n"

// openLink opens a link; early is sent together with the request.
func openLink(t testing.TB, network, address, headers, early string) *linkClient {
	t.Helper()
	conn, err := net.Dial(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetReadDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(conn, upgrade+headers+"\r\n"+early); err != nil {
		t.Fatal(err)
	}
	c := &linkClient{conn, bufio.NewReaderSize(conn, 64<<10)}
	response, err := http.ReadResponse(c.in, nil)
	if err != nil || response.StatusCode != http.StatusSwitchingProtocols || response.Header.Get("Upgrade") != "shoal-link/1" {
		t.Fatalf("upgrade gave %v, %v", response, err)
	}
	return c
}

func (s *server) link(t testing.TB) *linkClient { return openLink(t, "unix", s.path, "", "") }

// ask appends a QUERY frame.
func ask(frame []byte, ref uint64, timeout time.Duration, endpoint, method, shardKey, head, payload string) []byte {
	le, start := binary.LittleEndian, len(frame)
	frame = wire.Begin(frame, wire.Query)
	frame = le.AppendUint64(frame, ref)
	frame = le.AppendUint32(frame, uint32(timeout.Milliseconds()))
	for _, name := range []string{endpoint, method, shardKey} {
		frame = le.AppendUint16(frame, uint16(len(name)))
	}
	frame = le.AppendUint32(frame, uint32(len(head)))
	frame = append(frame, endpoint+method+shardKey+head+payload...)
	if err := wire.End(frame, start, 0); err != nil {
		panic(err)
	}
	return frame
}

func cancelFrame(ref uint64) []byte {
	return binary.LittleEndian.AppendUint64([]byte{9, 0, 0, 0, byte(wire.Cancel)}, ref)
}

func (c *linkClient) send(t testing.TB, frames ...[]byte) {
	t.Helper()
	if _, err := c.Write(bytes.Join(frames, nil)); err != nil {
		t.Fatal(err)
	}
}

// query asks endpoint "e".
func (c *linkClient) query(t testing.TB, ref uint64, payload string) {
	t.Helper()
	c.send(t, ask(nil, ref, 0, "e", "", "", "", payload))
}

// answer reads the next frame, which must be an ANSWER.
func (c *linkClient) answer(t testing.TB) (ref uint64, code uint8, payload string) {
	t.Helper()
	kind, body, err := wire.Read(c.in)
	if err != nil || kind != wire.Answer || len(body) < 9 {
		t.Fatalf("got a frame of kind %d, %q, %v", kind, body, err)
	}
	return binary.LittleEndian.Uint64(body), body[8], string(body[9:])
}

// refusal reads the next frame, which must be an ANSWER with an error.
func (c *linkClient) refusal(t testing.TB) (ref uint64, object wire.ErrorObject, pickle string) {
	t.Helper()
	ref, code, payload := c.answer(t)
	if code != wire.ErrorCode {
		t.Fatalf("answer to %d has code %d: %q", ref, code, payload)
	}
	n := binary.LittleEndian.Uint32([]byte(payload))
	if err := json.Unmarshal([]byte(payload[4:4+n]), &object); err != nil {
		t.Fatal(err)
	}
	return ref, object, payload[4+n:]
}

func (c *linkClient) wantRefusal(t testing.TB, wantRef uint64, code serving.Code) {
	t.Helper()
	if ref, object, _ := c.refusal(t); ref != wantRef || object.Type != string(code) {
		t.Errorf("answer to %d is %+v, want %s for %d", ref, object, code, wantRef)
	}
}

// wantEnd expects the connection to end without another frame.
func (c *linkClient) wantEnd(t testing.TB) {
	t.Helper()
	if kind, body, err := wire.Read(c.in); err == nil {
		t.Errorf("got a frame of kind %d: %q", kind, body)
	} else if net, ok := errors.AsType[net.Error](err); ok && net.Timeout() {
		t.Errorf("the connection stays open")
	}
}

// echo answers a call with its own payload.
func echo(c *serving.Call) {
	c.Response = serving.Response{Format: serving.Pickle, Body: c.Args.Payload}
}

// later answers each call from another goroutine, as backends do.
func later(b *fakeBackend, respond func(*serving.Call)) *laterBackend {
	return &laterBackend{fakeBackend: b, answer: respond}
}

type laterBackend struct {
	*fakeBackend
	answer  func(*serving.Call)
	running sync.WaitGroup
}

func (b *laterBackend) Submit(c *serving.Call) error {
	b.running.Go(func() {
		b.answer(c)
		c.Done(c)
	})
	return nil
}

func TestAQueryGoesThroughALinkAsItIs(t *testing.T) {
	s := serve(t, Options{})
	b := newFake("m")
	s.deploy(t, b)
	l := s.link(t)
	l.send(t, ask(nil, 7, 1500*time.Millisecond, "e", "predict", "user-1", `{"buffers":[1]}`, "pickle+b"))
	call := next(t, b.held)
	if call.Origin != batch.API || call.Method != "predict" || call.ShardKey != "user-1" ||
		string(call.Args.Head) != `{"buffers":[1]}` || string(call.Args.Payload) != "pickle+b" || call.Request != nil {
		t.Errorf("the call is %+v", call)
	}
	deadline, ok := call.Context.Deadline()
	if left := time.Until(deadline); !ok || left > 1500*time.Millisecond {
		t.Errorf("deadline in %v, %v", left, ok)
	}
	b.release(call, serving.Response{Format: serving.Pickle, Body: []byte("answer")}, nil)
	if ref, code, payload := l.answer(t); ref != 7 || code != 6 || payload != "answer" {
		t.Errorf("answer is %d, %d, %q", ref, code, payload)
	}
}

func TestAnswersComeInAnyOrder(t *testing.T) {
	s := serve(t, Options{})
	b := newFake("m")
	s.deploy(t, b)
	l := s.link(t)
	const n = 300
	var frames []byte
	for ref := range uint64(n) {
		frames = ask(frames, ref, 0, "e", "", "", "", fmt.Sprint(ref))
	}
	l.send(t, frames)
	calls := make([]*serving.Call, n)
	for i := range calls {
		calls[i] = next(t, b.held)
	}
	for i := n - 1; i >= 0; i-- {
		echo(calls[i])
		b.release(calls[i], calls[i].Response, nil)
	}
	for i := n - 1; i >= 0; i-- {
		if ref, _, payload := l.answer(t); ref != uint64(i) || payload != fmt.Sprint(i) {
			t.Fatalf("answer to %d is %q, want that to %d", ref, payload, i)
		}
	}
}

func TestManyLinksWithManyInFlight(t *testing.T) {
	for name, backend := range map[string]func() (serving.Backend, *sync.WaitGroup){
		"answered within submit": func() (serving.Backend, *sync.WaitGroup) {
			b := newFake("m")
			b.respond = echo
			return b, new(sync.WaitGroup)
		},
		"answered elsewhere": func() (serving.Backend, *sync.WaitGroup) {
			b := later(newFake("m"), echo)
			return b, &b.running
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, Options{})
			b, running := backend()
			s.deploy(t, b)
			var clients sync.WaitGroup
			for range 4 {
				l := s.link(t)
				clients.Go(func() { exchange(t, l, 2000) })
			}
			clients.Wait()
			running.Wait()
		})
	}
}

// exchange sends n queries, some large, while it reads their answers.
func exchange(t *testing.T, l *linkClient, n int) {
	payload := func(ref uint64) string { return strings.Repeat(fmt.Sprint(ref, ","), 1+int(ref%97)*int(ref%89)) }
	var sending sync.WaitGroup
	sending.Go(func() {
		for ref := range uint64(n) {
			if _, err := l.Write(ask(nil, ref, 0, "e", "", "", "", payload(ref))); err != nil {
				t.Error(err)
				return
			}
		}
	})
	defer sending.Wait()
	seen := make(map[uint64]bool)
	for range n {
		ref, code, got := l.answer(t)
		if seen[ref] || code != 6 || got != payload(ref) {
			t.Errorf("answer to %d: code %d, %d bytes, again: %v", ref, code, len(got), seen[ref])
			return
		}
		seen[ref] = true
	}
}

func TestFormatsOnALink(t *testing.T) {
	for name, c := range map[string]struct {
		response serving.Response
		code     uint8
	}{
		"json":           {serving.Response{Format: serving.JSON}, 1},
		"text":           {serving.Response{Format: serving.Text}, 2},
		"bytes":          {serving.Response{Format: serving.Bytes}, 3},
		"pickle":         {serving.Response{Format: serving.Pickle}, 6},
		"full json":      {serving.Response{Format: serving.Full, Header: http.Header{"Content-Type": {"application/json"}}}, 1},
		"full text":      {serving.Response{Format: serving.Full, Header: http.Header{"Content-Type": {"text/html"}}}, 2},
		"full":           {serving.Response{Format: serving.Full}, 3},
		"unknown":        {serving.Response{Format: 77}, wire.ErrorCode},
		"large":          {serving.Response{Format: serving.Bytes, Body: bytes.Repeat([]byte("x"), 3*loose)}, 3},
		"large by a bit": {serving.Response{Format: serving.Bytes, Body: bytes.Repeat([]byte("x"), loose)}, 3},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, Options{})
			b := newFake("m")
			b.respond = func(call *serving.Call) { call.Response = c.response }
			s.deploy(t, b)
			l := s.link(t)
			l.query(t, 1, "")
			if _, code, payload := l.answer(t); code != c.code || (c.response.Body != nil && payload != string(c.response.Body)) {
				t.Errorf("code %d, %d bytes", code, len(payload))
			}
		})
	}
}

func TestErrorsOnALink(t *testing.T) {
	raised := &serving.ModelError{
		Backend: "m", Type: "app.Busy", Message: "later", Traceback: "Traceback…", Status: 429,
		Header: http.Header{"Retry-After": {"3"}}, Pickle: []byte("pickled"),
	}
	for name, c := range map[string]struct {
		endpoint         string
		refusal, failure error
		want             wire.ErrorObject
		pickle           string
	}{
		"unknown endpoint": {"nope", nil, nil, wire.ErrorObject{Type: "EndpointNotFound", Message: `endpoint "nope" does not exist`, Status: 404}, ""},
		"refused":          {"e", batch.ErrQueueFull, nil, wire.ErrorObject{Type: "QueueFull", Message: "queue is full", Status: 503}, ""},
		"failed":           {"e", nil, errors.New("boom"), wire.ErrorObject{Type: "Internal", Message: "boom", Status: 500}, ""},
		"raised": {"e", nil, raised, wire.ErrorObject{
			Type: "app.Busy", Message: "later", Traceback: "Traceback…", Status: 429, Headers: map[string]string{"Retry-After": "3"},
		}, "pickled"},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, Options{})
			b := newFake("m")
			b.refusal = c.refusal
			b.respond = func(call *serving.Call) { call.Err = c.failure }
			s.deploy(t, b)
			l := s.link(t)
			l.send(t, ask(nil, 3, 0, c.endpoint, "", "", "", "x"))
			ref, object, pickle := l.refusal(t)
			if diff := cmp.Diff(c.want, object); ref != 3 || diff != "" || pickle != c.pickle {
				t.Errorf("ref %d, pickle %q, object %s", ref, pickle, diff)
			}
		})
	}
}

func TestACanceledQueryIsWithdrawnAndAnsweredOnce(t *testing.T) {
	for name, stuck := range map[string]bool{"while it waits": false, "while it runs": true} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, Options{})
			b := newFake("m")
			b.stuck = stuck
			s.deploy(t, b)
			l := s.link(t)
			l.query(t, 1, "")
			call := next(t, b.held)
			l.send(t, cancelFrame(1), cancelFrame(1), cancelFrame(99))
			l.wantRefusal(t, 1, serving.Canceled)
			if !stuck && next(t, b.withdrawn) != call {
				t.Error("another call was withdrawn")
			}
			b.release(call, serving.Response{Format: serving.JSON}, nil) // too late: nobody waits
			l.query(t, 2, "")
			b.release(next(t, b.held), serving.Response{Format: serving.JSON}, nil)
			if ref, _, _ := l.answer(t); ref != 2 {
				t.Errorf("query %d was answered again", ref)
			}
		})
	}
}

func TestAQueryWhoseTimeIsOverIsAnsweredOnce(t *testing.T) {
	for name, c := range map[string]struct {
		stuck    bool
		own, def time.Duration
	}{
		"its own time":               {false, time.Millisecond, time.Hour},
		"the backend's time":         {false, 0, time.Millisecond},
		"its own time, running":      {true, time.Millisecond, time.Hour},
		"the backend's, and it runs": {true, 0, time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, Options{})
			b := newFake("m")
			b.stuck, b.config.Timeout = c.stuck, serving.Duration(c.def)
			s.deploy(t, b)
			l := s.link(t)
			l.send(t, ask(nil, 1, c.own, "e", "", "", "", ""))
			call := next(t, b.held)
			l.wantRefusal(t, 1, serving.DeadlineExceeded)
			if !c.stuck {
				next(t, b.withdrawn)
			}
			b.release(call, serving.Response{Format: serving.JSON}, nil)
			l.send(t, ask(nil, 2, time.Hour, "e", "", "", "", ""))
			b.release(next(t, b.held), serving.Response{Format: serving.JSON}, nil)
			if ref, _, _ := l.answer(t); ref != 2 {
				t.Errorf("query %d was answered again", ref)
			}
		})
	}
}

func TestTimeoutsAndAnswersRace(t *testing.T) {
	s := serve(t, Options{})
	b := later(newFake("m"), func(c *serving.Call) {
		deadline, _ := c.Context.Deadline()
		for time.Now().Before(deadline) { // answer at the very moment
		}
		echo(c)
	})
	s.deploy(t, b)
	l := s.link(t)
	const n = 100
	for ref := range uint64(n) {
		l.send(t, ask(nil, ref, time.Millisecond, "e", "", "", "", ""))
	}
	seen := make(map[uint64]bool)
	for range n {
		ref, _, _ := l.answer(t)
		if seen[ref] {
			t.Fatalf("query %d was answered twice", ref)
		}
		seen[ref] = true
	}
	b.running.Wait()
}

func TestALostConnectionWithdrawsItsQueries(t *testing.T) {
	s := serve(t, Options{})
	b := newFake("m")
	s.deploy(t, b)
	l, other := s.link(t), s.link(t)
	other.query(t, 1, "")
	stays := next(t, b.held)
	lost := make(map[*serving.Call]bool)
	for ref := range uint64(20) {
		l.query(t, ref, "")
		lost[next(t, b.held)] = true
	}
	_ = l.Close()
	for range 20 {
		if call := next(t, b.withdrawn); !lost[call] {
			t.Error("another connection's query was withdrawn")
		}
	}
	b.release(stays, serving.Response{Format: serving.JSON}, nil)
	other.answer(t)
}

func TestQueriesSentWithTheUpgradeAreNotLost(t *testing.T) {
	s := serve(t, Options{})
	b := newFake("m")
	b.respond = echo
	s.deploy(t, b)
	l := openLink(t, "unix", s.path, "", string(ask(nil, 1, 0, "e", "", "", "", "early")))
	if _, _, payload := l.answer(t); payload != "early" {
		t.Errorf("payload is %q", payload)
	}
}

func TestALinkByTCPNeedsTheToken(t *testing.T) {
	f := New(Options{Registry: serving.NewRegistry(), Token: "secret"})
	tcp, err := Listen("http://127.0.0.1:0", "secret")
	if err != nil {
		t.Fatal(err)
	}
	start(t, f, tcp)
	l := openLink(t, "tcp", tcp.Addr().String(), "Authorization: Bearer secret\r\n", "")
	l.query(t, 1, "")
	l.wantRefusal(t, 1, serving.EndpointNotFound)

	conn, err := net.Dial("tcp", tcp.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, upgrade+"\r\n")
	if response, err := http.ReadResponse(bufio.NewReader(conn), nil); err != nil || response.StatusCode != 401 {
		t.Errorf("without the token: %v, %v", response, err)
	}
}

// syncBuffer is a log that is read while it is written.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func TestAMalformedFrameClosesTheLinkWithAReason(t *testing.T) {
	le := binary.LittleEndian
	frame := func(kind wire.Kind, body string) []byte {
		return append(append(le.AppendUint32(nil, uint32(1+len(body))), byte(kind)), body...)
	}
	twice := ask(ask(nil, 1, 0, "e", "", "", "", ""), 1, 0, "e", "", "", "", "")
	for name, c := range map[string]struct {
		sent   []byte
		reason string
	}{
		"empty frame":            {make([]byte, 5), "a frame of 0 bytes"},
		"too long":               {le.AppendUint32(nil, wire.MaxFrame+1), "header"},
		"too long, with a kind":  {append(le.AppendUint32(nil, wire.MaxFrame+1), 16), "must have 1 to"},
		"unknown kind":           {frame(77, ""), "kind 77"},
		"a server's kind":        {frame(wire.Answer, "xxxxxxxxx"), "kind 17"},
		"short QUERY":            {frame(wire.Query, "short"), "QUERY of 5 bytes"},
		"QUERY with bad lengths": {frame(wire.Query, strings.Repeat("\xff", queryFixed)), "announces"},
		"name that is no UTF-8":  {ask(nil, 1, 0, "\xff", "", "", "", ""), "UTF-8"},
		"short CANCEL":           {frame(wire.Cancel, "short"), "CANCEL of 5 bytes"},
		"ref id used twice":      {twice, "ref id 1"},
		"end within a frame":     {frame(wire.Query, "short")[:7], "within a frame"},
		"end within a large one": {append(append(le.AppendUint32(nil, wire.MaxFrame), 16), make([]byte, 3<<20)...), "within a frame"},
	} {
		t.Run(name, func(t *testing.T) {
			var log syncBuffer
			s := serve(t, Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
			s.deploy(t, newFake("m"))
			l := s.link(t)
			l.send(t, c.sent)
			_ = l.Conn.(*net.UnixConn).CloseWrite()
			l.wantEnd(t)
			if err := s.stop(); err != nil { // after which all is logged
				t.Error(err)
			}
			if !strings.Contains(log.String(), "malformed frame") || !strings.Contains(log.String(), c.reason) {
				t.Errorf("log is %s", &log)
			}
		})
	}
}

func TestAClientThatDoesNotReadIsNotReadEither(t *testing.T) {
	s := serve(t, Options{})
	const n, size = 200, 1 << 20 // far more than an outbox may hold
	blob := make([]byte, size)
	full := make(chan struct{})
	once := sync.OnceFunc(func() { close(full) })
	b := newFake("m")
	b.respond = func(c *serving.Call) {
		l := c.Context.(*query).link
		l.mu.Lock()
		pending := l.out.size
		l.mu.Unlock()
		if pending > maxOutbox {
			t.Errorf("a query was read while %d bytes waited", pending)
		}
		if pending+size > maxOutbox {
			once()
		}
		c.Response = serving.Response{Format: serving.Bytes, Body: blob}
	}
	s.deploy(t, b)
	l := s.link(t)
	var frames []byte
	for ref := range uint64(n) {
		frames = ask(frames, ref, 0, "e", "", "", "", "")
	}
	l.send(t, frames)
	next(t, full)
	for ref := range uint64(n) {
		if got, _, payload := l.answer(t); got != ref || len(payload) != size {
			t.Fatalf("answer to %d has %d bytes", got, len(payload))
		}
	}
}

func TestAClientThatLeavesWithoutReading(t *testing.T) {
	s := serve(t, Options{})
	blob := make([]byte, maxOutbox)
	b := newFake("m")
	s.deploy(t, b)
	l := s.link(t)
	for ref := range uint64(3) {
		l.query(t, ref, "")
	}
	for range 3 {
		b.release(next(t, b.held), serving.Response{Format: serving.Bytes, Body: blob}, nil)
	}
	l.query(t, 4, "") // which the server does not take
	_ = l.Close()
	if err := s.stop(); err != nil {
		t.Error(err)
	}
}

func TestGoodbye(t *testing.T) {
	s := serve(t, Options{})
	b := newFake("m")
	s.deploy(t, b)
	l, idle := s.link(t), s.link(t)
	l.query(t, 1, "")
	call := next(t, b.held)
	idle.query(t, 9, "")
	b.release(next(t, b.held), serving.Response{Format: serving.JSON}, nil)
	idle.answer(t)
	stopped := make(chan error, 1)
	go func() { stopped <- s.stop() }()

	for _, l := range []*linkClient{l, idle} {
		kind, body, err := wire.Read(l.in)
		if err != nil || kind != wire.Goodbye || string(body) != `{"reason":"the server is shutting down"}` {
			t.Fatalf("got kind %d, %s, %v", kind, body, err)
		}
	}
	idle.wantEnd(t)
	_ = idle.Close()
	l.query(t, 2, "")
	l.wantRefusal(t, 2, serving.Draining)
	b.release(call, serving.Response{Format: serving.JSON, Body: []byte("1")}, nil)
	if ref, code, payload := l.answer(t); ref != 1 || code != 1 || payload != "1" {
		t.Errorf("answer is %d, %d, %q", ref, code, payload)
	}
	l.wantEnd(t)
	_ = l.Close()
	if err := next(t, stopped); err != nil {
		t.Error(err)
	}
	if s.register(newLink(s.Front)) {
		t.Error("a link was opened after the end")
	}
}

func TestALinkThatDoesNotFinishIsCut(t *testing.T) {
	s := serve(t, Options{ShutdownTimeout: time.Millisecond})
	b := newFake("m")
	s.deploy(t, b)
	l := s.link(t)
	l.query(t, 1, "")
	next(t, b.held)
	if err := s.stop(); err == nil || !strings.Contains(err.Error(), "1 links were cut") {
		t.Errorf("Serve = %v", err)
	}
	next(t, b.withdrawn)
}

func TestABackendThatPanicsEndsItsLinkAlone(t *testing.T) {
	s := serve(t, Options{})
	b := newFake("m")
	b.respond = func(c *serving.Call) {
		if string(c.Args.Payload) == "panic" {
			panic("boom")
		}
		echo(c)
	}
	s.deploy(t, b)
	l, other := s.link(t), s.link(t)
	l.query(t, 1, "panic")
	l.wantEnd(t)
	other.query(t, 1, "fine")
	if _, _, payload := other.answer(t); payload != "fine" {
		t.Errorf("payload is %q", payload)
	}
}
