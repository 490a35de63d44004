package admin

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/shoalserve/shoal/internal/serving"
	"github.com/shoalserve/shoal/internal/wire"
)

// linkClient is the other side of a link, as plain as can be.
const upgrade = "GET /v1/link HTTP/1.1\r\nHost: shoal\r\nConnection: keep-alive, Upgrade\r\nUpgrade: shoal-link/3\r\n"

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
	c := &linkClient{Conn: conn, in: bufio.NewReaderSize(conn, 64<<10)}
	response, err := http.ReadResponse(c.in, nil)
	if err != nil || response.StatusCode != http.StatusSwitchingProtocols || response.Header.Get("Upgrade") != "shoal-link/3" {
		t.Fatalf("upgrade gave %v, %v", response, err)
	}
	return c
}

func (s *server) link(t testing.TB) *linkClient { return openLink(t, "unix", s.path, "", "") }

func ask(frame []byte, ref uint64, timeout time.Duration, endpoint, method, shardKey, head, payload string) []byte {
	return askTogether(frame, []uint64{ref}, timeout, endpoint, method, shardKey, head, []string{payload})
}

func askTogether(frame []byte, refs []uint64, timeout time.Duration, endpoint, method, shardKey, head string, payloads []string) []byte {
	return askFor(frame, refs, timeout, 0, "", endpoint, method, shardKey, head, payloads)
}

func askFor(frame []byte, refs []uint64, timeout time.Duration, priority int, caller, endpoint, method, shardKey, head string, payloads []string) []byte {
	le, start := binary.LittleEndian, len(frame)
	frame = wire.Begin(frame, wire.Query)
	frame = le.AppendUint32(frame, uint32(len(refs)))
	frame = le.AppendUint32(frame, uint32(timeout.Milliseconds()))
	for _, name := range []string{endpoint, method, shardKey, caller} {
		frame = le.AppendUint16(frame, uint16(len(name)))
	}
	frame = le.AppendUint32(frame, uint32(len(head)))
	frame = append(frame, byte(int8(priority)))
	frame = append(frame, endpoint+method+shardKey+caller+head...)
	for _, ref := range refs {
		frame = le.AppendUint64(frame, ref)
	}
	for _, payload := range payloads {
		frame = le.AppendUint32(frame, uint32(len(payload)))
	}
	frame = append(frame, strings.Join(payloads, "")...)
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

func (c *linkClient) query(t testing.TB, ref uint64, payload string) {
	t.Helper()
	c.send(t, ask(nil, ref, 0, "e", "", "", "", payload))
}

func (c *linkClient) answer(t testing.TB) (ref uint64, code uint8, payload string) {
	t.Helper()
	if len(c.answers) == 0 {
		kind, body, err := wire.Read(c.in)
		if err != nil || kind != wire.Answer {
			t.Fatalf("got a frame of kind %d, %q, %v", kind, body, err)
		}
		if c.answers, err = parseAnswers(body); err != nil {
			t.Fatal(err)
		}
	}
	first := c.answers[0]
	c.answers = c.answers[1:]
	return first.ref, first.code, first.payload
}

type linkAnswer struct {
	ref     uint64
	code    uint8
	payload string
}

func parseAnswers(body []byte) (found []linkAnswer, err error) {
	le := binary.LittleEndian
	if len(body) < 4 {
		return nil, fmt.Errorf("an ANSWER of %d bytes", len(body))
	}
	n := int(le.Uint32(body))
	if n < 1 || len(body) < 4+answerEach*n {
		return nil, fmt.Errorf("an ANSWER of %d bytes cannot hold %d answers", len(body), n)
	}
	refs, codes, lengths, rest := body[4:], body[4+8*n:], body[4+9*n:], body[4+13*n:]
	for i := range n {
		length := int(le.Uint32(lengths[4*i:]))
		found = append(found, linkAnswer{le.Uint64(refs[8*i:]), codes[i], string(rest[:length])})
		rest = rest[length:]
	}
	if len(rest) > 0 {
		return nil, fmt.Errorf("%d bytes too many in an ANSWER", len(rest))
	}
	return found, nil
}

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

func (c *linkClient) wantEnd(t testing.TB) {
	t.Helper()
	if kind, body, err := wire.Read(c.in); err == nil {
		t.Errorf("got a frame of kind %d: %q", kind, body)
	} else if net, ok := errors.AsType[net.Error](err); ok && net.Timeout() {
		t.Errorf("the connection stays open")
	}
}

func echo(c *serving.Call) {
	c.Response = serving.Response{Format: serving.Pickle, Body: c.Args.Payload}
	if bytes.HasPrefix(c.Args.Head, []byte(`{"encoding":"json"`)) { // as the worker does
		c.Response.Format = serving.JSON
	}
}

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
