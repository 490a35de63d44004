package door

import (
	"io"
	"log/slog"
	"net"
	"net/http"
	"testing"
	"time"
)

// What is closed is not remembered, whichever protocol it spoke.
func TestConnectionsThatAreGoneAreForgotten(t *testing.T) {
	c := NewConnections(10, nil, func() { t.Error("one is refused") }, slog.New(slog.DiscardHandler))
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	server := &http.Server{ //nolint:gosec // its clients are tame
		Handler:   http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.Proto) }),
		Protocols: protocols, ConnState: c.State,
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(c.Listen(l)) }()
	for want, set := range map[string]func(*http.Protocols){
		"HTTP/1.1": func(p *http.Protocols) { p.SetHTTP1(true) },
		"HTTP/2.0": func(p *http.Protocols) { p.SetUnencryptedHTTP2(true) },
	} {
		only := new(http.Protocols)
		set(only)
		transport := &http.Transport{Protocols: only}
		client := &http.Client{Transport: transport}
		for range 3 {
			r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+l.Addr().String(), nil)
			if err != nil {
				t.Fatal(err)
			}
			got, err := client.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(got.Body)
			if err != nil || string(body) != want {
				t.Fatalf("got %q, %v; want %s", body, err, want)
			}
			_ = got.Body.Close()
		}
		await(t, c, 1) // it waits for its next request
		transport.CloseIdleConnections()
		await(t, c, 0)
	}
	if err := server.Close(); err != nil {
		t.Error(err)
	}
	<-served //nolint:errcheck // says only that it was closed
	if n := c.Open(); n != 0 {
		t.Errorf("%d are counted", n)
	}
}

// await waits until as many connections wait for a request.
func await(t *testing.T, c *Connections, n int) {
	t.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		c.mu.Lock()
		waiting, places := c.idle.Len(), len(c.places)
		c.mu.Unlock()
		if waiting == n && places == n {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%d wait, in %d places; want %d", waiting, places, n)
		}
	}
}
