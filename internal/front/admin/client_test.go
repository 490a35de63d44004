package admin

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/shoalserve/shoal/internal/front/problem"
	"github.com/shoalserve/shoal/internal/serving"
)

func http1(t *testing.T, url, authorization string) (*http.Response, error) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", authorization)
	transport := &http.Transport{DisableKeepAlives: true}
	response, err := transport.RoundTrip(r)
	if err == nil {
		_, _ = io.Copy(io.Discard, response.Body)
		_ = response.Body.Close()
	}
	return response, err
}

func TestNobodyAnswers(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close() // a port on which surely nobody listens
	stale := socketPath(t)
	leaveStale(t, stale)
	for _, address := range []string{"unix:" + socketPath(t), "unix:" + stale, "http://" + l.Addr().String()} {
		_, err := dial(t, address, "t").Status(t.Context())
		wantCode(t, err, serving.Unavailable, "no Shoal server answers at "+address, "start one with `shoal serve` or give --server")
	}
}

func TestDialRefusesWhatIsNoAddress(t *testing.T) {
	for _, address := range []string{"", "unix:", "/run/shoal.sock", "127.0.0.1:1", "ftp://h", "http://", "http://h/path", "http://h:port:1"} {
		_, err := Dial(address, "", nil)
		wantCode(t, err, serving.InvalidArgument, "must be unix:/path, http://host:port or https://host:port")
	}
}

func TestNamesThatCannotBe(t *testing.T) {
	c := dial(t, "unix:/nowhere", "")
	for _, name := range []string{"", ".", ".."} {
		_, err := c.Backend(t.Context(), name)
		wantCode(t, err, serving.InvalidArgument, "is no name")
		wantCode(t, c.DeleteEndpoint(t.Context(), name), serving.InvalidArgument, "is no name")
	}
}

func TestAnotherServerAnswers(t *testing.T) {
	for name, c := range map[string]struct {
		contentType, body string
		status            int
		part              string
	}{
		"a web site":            {"text/html", "<html>", 502, "is it a Shoal server"},
		"a redirect":            {"text/html", "", 302, "is it a Shoal server"},
		"an unreadable problem": {problem.ContentType, "{", 400, "unreadable problem"},
	} {
		t.Run(name, func(t *testing.T) {
			other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", c.contentType)
				w.WriteHeader(c.status)
				_, _ = io.WriteString(w, c.body)
			}))
			defer other.Close()
			_, err := dial(t, other.URL, "t").Status(t.Context())
			wantCode(t, err, serving.Internal, c.part)
		})
	}
}

func TestAServerThatBreaksOff(t *testing.T) {
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }))
	defer other.Close()
	_, err := dial(t, other.URL, "t").Status(t.Context())
	wantCode(t, err, serving.Unavailable, "broke off")
}
