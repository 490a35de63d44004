package admin

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/shoalserve/shoal/internal/auth"
	"github.com/shoalserve/shoal/internal/front/door"
)

// Whoever is denied is told at once, whatever he has promised to send, and holds no
// connection.
func TestADenialDoesNotWaitForTheBody(t *testing.T) {
	g := guarded(t, Options{}, map[string]auth.Grant{"asker": {Scopes: []auth.Scope{auth.Query}}})
	for header, status := range map[string]int{"": 401, "Authorization: Bearer x\r\n": 401} {
		for _, body := range []string{"Content-Length: 10\r\n\r\nx", "Transfer-Encoding: chunked\r\n\r\n3\r\nx"} {
			conn, err := net.Dial("tcp", g.address) //nolint:noctx // it is local
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = conn.Close() })
			_ = conn.SetDeadline(time.Now().Add(patience))
			if _, err := io.WriteString(conn, "POST /v1/artifacts HTTP/1.1\r\nHost: x\r\n"+header+body); err != nil {
				t.Fatal(err)
			}
			from := bufio.NewReader(conn)
			response, err := http.ReadResponse(from, nil)
			if err != nil {
				t.Fatal(err)
			}
			if response.StatusCode != status || !response.Close {
				t.Errorf("got %d, closed %v", response.StatusCode, response.Close)
			}
			_, _ = io.Copy(io.Discard, response.Body)
			_ = response.Body.Close()
			if _, err := from.ReadByte(); err == nil {
				t.Error("more came")
			} else if timeout, ok := err.(net.Error); ok && timeout.Timeout() { //nolint:errorlint // net does not wrap it
				t.Error("the connection stays open")
			}
		}
	}
}

// What others hold by TCP keeps the owner of the server out of nothing.
func TestTheOwnerComesInWhenOthersFillTheBound(t *testing.T) {
	g := guarded(t, Options{MaxInflightBytes: 1 << 20}, map[string]auth.Grant{"ci": {Scopes: []auth.Scope{auth.Deploy}}})
	if err := g.arriving.Take(1 << 20); err != nil {
		t.Fatal(err)
	}
	defer g.arriving.Give(1 << 20)
	if status, body := g.call(t, "ci", "PUT", "/v1/endpoints/e", "{}"); status != 503 {
		t.Errorf("by TCP: %d %s", status, body)
	}
	s := g.server
	s.deploy(t, newFake("m"))
	if response := s.raw(t, "PUT", "/v1/endpoints/e/traffic", `{"m": 1}`); response.StatusCode == 503 {
		t.Errorf("by the socket: %d", response.StatusCode)
	}
	for kind, bound := range map[string]*door.Bytes{"socket": g.owners, "key": g.arriving} {
		if g.arrivingOf(auth.NewIdentity(kind, "x", allowed)) != bound {
			t.Errorf("a %s has another bound", kind)
		}
	}
}
