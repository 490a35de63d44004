package rest

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/shoalserve/shoal/internal/auth"
	"github.com/shoalserve/shoal/internal/serving"
)

func TestTLSIsServedInBothVersionsOfHTTP(t *testing.T) {
	model := httptest.NewUnstartedServer(nil) // only for its certificate
	model.EnableHTTP2 = true
	model.StartTLS()
	defer model.Close()
	a, keys := guarded(t, map[string]auth.Grant{"alice": {Scopes: []auth.Scope{auth.Query}}})
	registry := serving.NewRegistry()
	b := answering("m", text("yes"))
	if _, err := registry.Deploy(t.Context(), "m", false, b.build); err != nil {
		t.Fatal(err)
	}
	if _, err := registry.CreateEndpoint("m", serving.EndpointSpec{Backend: "m", Route: "/m"}); err != nil {
		t.Fatal(err)
	}
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := New(registry, Options{Auth: a, TLS: &tls.Config{Certificates: model.TLS.Certificates, NextProtos: []string{"h2", "http/1.1"}, MinVersion: tls.VersionTLS12}})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- f.Serve(ctx, listener) }()
	for _, version := range []int{1, 2} {
		transport := model.Client().Transport.(*http.Transport).Clone()
		transport.Protocols = new(http.Protocols)
		transport.Protocols.SetHTTP1(version == 1)
		transport.Protocols.SetHTTP2(version == 2)
		transport.TLSClientConfig.NextProtos = nil // which the server's own client chose
		for key, status := range map[string]int{keys["alice"]: 200, "made-up": 401} {
			r, err := http.NewRequestWithContext(t.Context(), "GET", "https://"+listener.Addr().String()+"/m", nil)
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("Authorization", "Bearer "+key)
			got, err := send(&http.Client{Transport: transport}, r)
			if err != nil || got.StatusCode != status || got.ProtoMajor != version {
				t.Errorf("HTTP/%d: %v, %v", version, got.Response, err)
			}
		}
		transport.CloseIdleConnections()
	}
	if got, err := send(http.DefaultClient, httptest.NewRequest("GET", "http://"+listener.Addr().String()+"/m", nil).WithContext(t.Context())); err == nil && got.StatusCode == 200 {
		t.Error("a plain request was answered")
	}
	http.DefaultClient.CloseIdleConnections()
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := registry.Close(context.Background()); err != nil {
		t.Error(err)
	}
}
