package admin

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
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

type linkClient struct {
	net.Conn
	in      *bufio.Reader
	answers []linkAnswer // that came with others and were not asked for yet
}

// openLink opens a link; early is sent together with the request.
// ask appends a QUERY frame.
// query asks endpoint "e".
// answer takes the next answer; what comes must be an ANSWER.
// refusal takes the next answer, which must be an error.
// wantEnd expects the connection to end without another frame.
// echo answers a call with its own payload.
// later answers each call from another goroutine, as backends do.
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

func TestAQueryOfALinkHasItsTerms(t *testing.T) {
	s := serve(t, Options{})
	b := newFake("m")
	s.deploy(t, b)
	l := s.link(t)
	l.send(t, askFor(nil, []uint64{7}, 0, -2, "batch job", "e", "", "", "", []string{"x"}))
	call := next(t, b.held)
	if call.Caller != "batch job" || call.Priority != -2 {
		t.Errorf("caller %q, priority %d", call.Caller, call.Priority)
	}
	b.release(call, serving.Response{Format: serving.Pickle}, nil)
	l.answer(t)
	for part, frame := range map[string][]byte{
		"priority": askFor(nil, []uint64{8}, 0, 4, "", "e", "", "", "", []string{"x"}),
		"caller":   askFor(nil, []uint64{8}, 0, 0, strings.Repeat("x", 129), "e", "", "", "", []string{"x"}),
	} {
		l.send(t, frame)
		if ref, code, payload := l.answer(t); ref != 8 || code != wire.ErrorCode || !strings.Contains(payload, part) || !strings.Contains(payload, "InvalidArgument") {
			t.Errorf("%s: answer is %d, %d, %q", part, ref, code, payload)
		}
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
	tcp, err := Listen("http://127.0.0.1:0", true, nil)
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
