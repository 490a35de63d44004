package serving_test

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shoalserve/shoal/batch"
	"github.com/shoalserve/shoal/internal/runtime/gofunc"
	"github.com/shoalserve/shoal/internal/serving"
)

func TestAnExampleIsAskedAsAClientOfItsEndpointWould(t *testing.T) {
	for name, c := range map[string]struct {
		spec serving.EndpointSpec
		want string
	}{
		"a query":                   {serving.EndpointSpec{Route: "/a b", Example: &serving.Example{Query: map[string]any{"n": 1}}}, "GET /a%20b?n=1"},
		"a body":                    {serving.EndpointSpec{Route: "/m", Methods: []string{"GET", "POST"}, Example: &serving.Example{Text: "x"}}, "POST /m"},
		"a method of the route":     {serving.EndpointSpec{Route: "/m", Methods: []string{"PUT"}, Example: &serving.Example{Text: "x"}}, "PUT /m"},
		"a method of the example":   {serving.EndpointSpec{Route: "/m", Example: &serving.Example{Method: "delete"}}, "DELETE /m"},
		"an endpoint without route": {serving.EndpointSpec{Example: &serving.Example{}}, "GET /"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRegistry(t)
			asked := make(chan string, 1)
			_, err := r.Deploy(t.Context(), "m", false, func(ctx context.Context) (serving.Backend, error) {
				return seesRequests(ctx, asked)
			})
			if err != nil {
				t.Fatal(err)
			}
			c.spec.Backend = "m"
			if _, err := r.CreateEndpoint("m", c.spec); err != nil {
				t.Fatal(err)
			}
			if err := serving.NewProber(r).Ready(t.Context()); err != nil {
				t.Fatal(err)
			}
			if got := <-asked; got != c.want {
				t.Errorf("the model was asked %s, want %s", got, c.want)
			}
		})
	}
}

// seesRequests is a backend that tells what it is asked.
func seesRequests(ctx context.Context, asked chan<- string) (serving.Backend, error) {
	runtime := gofunc.Runtime[string, string]{New: func(context.Context) (batch.Func[string, string], func() error, error) {
		return func(_ context.Context, in []string) ([]string, error) { return in, nil }, nil, nil
	}}
	codec := serving.Codec[string, string]{
		Decode: func(c *serving.Call) (string, error) {
			asked <- c.Request.Method + " " + c.Request.Target
			return "", nil
		},
		Encode: func(*serving.Call, string) (serving.Response, error) { return serving.Response{}, nil },
	}
	return serving.NewTypedPool(ctx, "m", serving.Model[string, string]{Kind: "go", Runtime: runtime}, codec, serving.Config{}, serving.Deps{})
}

func TestWhoLingersIsNotReadyAndGoesOnForTheDelay(t *testing.T) {
	for name, c := range map[string]struct{ delay, ends, want time.Duration }{
		"the delay is over": {time.Minute, time.Hour, time.Minute},
		"it is ended":       {time.Hour, time.Minute, time.Minute},
		"there is none":     {0, time.Minute, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := serving.NewProber(newRegistry(t))
				ctx, cancel := context.WithTimeout(t.Context(), c.ends)
				defer cancel()
				began, over := time.Now(), make(chan time.Duration, 1)
				go func() {
					p.Linger(ctx, c.delay, slog.New(slog.DiscardHandler))
					over <- time.Since(began)
				}()
				synctest.Wait()
				if err := p.Ready(t.Context()); err == nil || !strings.Contains(err.Error(), "about to stop") {
					t.Errorf("who is about to stop says %v", err)
				}
				if got := <-over; got != c.want {
					t.Errorf("it went on for %v, want %v", got, c.want)
				}
			})
		})
	}
}
