package shoal_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/shoalserve/shoal"
)

type params struct {
	Number float64 `json:"number"`
	Name   string  `json:"name"`
}

// serveOne serves a model that answers with what it was given, as Go writes it.
func serveOne[In any](t *testing.T) *httptest.Server {
	t.Helper()
	app := shoal.New(shoal.Options{})
	show := shoal.Batch(func(_ context.Context, in []In) ([]string, error) {
		out := make([]string, len(in))
		for i := range in {
			out[i] = strings.TrimPrefix(fmt.Sprintf("%+v", in[i]), "&")
		}
		return out, nil
	})
	if err := app.CreateBackend(t.Context(), "m", show, shoal.Config{}); err != nil {
		t.Fatal(err)
	}
	if err := app.CreateEndpoint("m", shoal.Endpoint{Backend: "m", Route: "/m", Methods: []string{"GET", "POST"}}); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(app.Handler())
	t.Cleanup(func() {
		server.Close()
		if err := app.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return server
}

func wantAnswer(t *testing.T, server *httptest.Server, query string, status int, want string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+"/m?"+query, nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := server.Client().Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != status || !strings.Contains(string(body), want) {
		t.Errorf("?%s: %d %s, %v; want %d and %q", query, response.StatusCode, body, err, status, want)
	}
}

func TestQueryParametersBecomeWhatTheModelTakes(t *testing.T) {
	t.Run("a struct", func(t *testing.T) {
		wantAnswer(t, serveOne[params](t), "number=41&name=x", 200, "{Number:41 Name:x}")
	})
	t.Run("a pointer to a struct", func(t *testing.T) {
		wantAnswer(t, serveOne[*params](t), "number=41&name=x", 200, "{Number:41 Name:x}")
	})
	t.Run("a map of numbers", func(t *testing.T) {
		server := serveOne[map[string]float64](t)
		wantAnswer(t, server, "a=41&b=-1.5", 200, "map[a:41 b:-1.5]")
		wantAnswer(t, server, "a=many", 400, `query parameter \"a\" is not a value of type float64`)
	})
	t.Run("a map of texts", func(t *testing.T) {
		wantAnswer(t, serveOne[map[string]string](t), "a=41", 200, "map[a:41]")
	})
	t.Run("a map of anything", func(t *testing.T) {
		wantAnswer(t, serveOne[map[string]any](t), "a=41", 200, "map[a:41]")
	})
	t.Run("one value", func(t *testing.T) {
		server := serveOne[int](t)
		wantAnswer(t, server, "n=41", 200, "41")
		wantAnswer(t, server, "n=1&m=2", 400, "not as 2 parameters")
	})
}
