package python

import (
	"bytes"
	"context"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/shoalserve/shoal/batch"
	"github.com/shoalserve/shoal/internal/serving"
)

// BenchmarkWorker is the way of a JSON query through one worker and back,
// without HTTP, in a closed loop.
func BenchmarkWorker(b *testing.B) {
	request := &serving.Request{ID: "0123456789abcdef", Method: "POST", Target: "/increment", Body: []byte("41")}
	request.Header = map[string][]string{"Content-Type": {"application/json"}, "Content-Length": {"2"}}
	for _, inFlight := range []int{1, 16, 64, 256} {
		b.Run(fmt.Sprintf("in flight %d", inFlight), func(b *testing.B) {
			sdk, err := filepath.Abs("../../../python")
			if err != nil {
				b.Fatal(err)
			}
			backend, err := NewDeployer(Options{SDKDir: sdk}).Backend(b.Context(), "increment", file("increment"), serving.Config{MaxBatchSize: 32})
			if err != nil {
				b.Fatal(err)
			}
			defer backend.Close(context.Background())
			closedLoop(b, backend, request, inFlight)
		})
	}
}

// BenchmarkArrays is BenchmarkWorker for a model that takes arrays.
func BenchmarkArrays(b *testing.B) {
	request := &serving.Request{ID: "0123456789abcdef", Method: "POST", Target: "/plus", Body: []byte(`{"x":41}`)}
	request.Header = map[string][]string{"Content-Type": {"application/json"}, "Content-Length": {"8"}}
	for _, inFlight := range []int{1, 16, 64, 256} {
		b.Run(fmt.Sprintf("in flight %d", inFlight), func(b *testing.B) {
			backend := deployArrays(b, "plus", serving.Config{MaxBatchSize: 32})
			closedLoop(b, backend, request, inFlight)
		})
	}
}

// BenchmarkLargeArrays is the way of arrays of 1 MB to a worker and, where it
// returns them, back; beside a copy of as many bytes.
func BenchmarkLargeArrays(b *testing.B) {
	const size = 1 << 20
	const bodies = 16 // as many as in flight at most, so that as much lies in caches
	request := postBytes(make([]byte, size)).Request
	b.Run("copy", func(b *testing.B) {
		from, to := make([]byte, bodies*size), make([]byte, bodies*size)
		copy(from, to) // the pages are there from now on
		copy(to, from)
		b.SetBytes(size)
		i := 0
		for b.Loop() {
			i = (i + 1) % bodies
			copy(to[i*size:(i+1)*size], from[i*size:])
		}
	})
	b.Run("copy to new memory", func(b *testing.B) {
		from := make([]byte, bodies*size)
		b.SetBytes(size)
		i := 0
		for b.Loop() {
			i = (i + 1) % bodies
			sink = bytes.Clone(from[i*size : (i+1)*size])
		}
	})
	for _, model := range []string{"take", "same"} {
		for _, inFlight := range []int{1, 16} {
			b.Run(fmt.Sprintf("%s, in flight %d", model, inFlight), func(b *testing.B) {
				b.SetBytes(size)
				closedLoop(b, deployArrays(b, model, serving.Config{MaxBatchSize: 8}), request, inFlight)
			})
		}
	}
}

var sink []byte

// closedLoop keeps queries in flight until the benchmark has enough.
func closedLoop(b *testing.B, backend serving.Backend, request *serving.Request, inFlight int) {
	free := make(chan *serving.Call, inFlight)
	for range inFlight {
		own := *request
		own.Body = bytes.Clone(request.Body) // bodies do not all come from one place in a cache
		free <- &serving.Call{Origin: batch.Web, Request: &own, Backend: backend, Done: func(c *serving.Call) { free <- c }}
	}
	again := func() {
		c := <-free
		if c.Err != nil {
			b.Fatal(c.Err)
		}
		if err := backend.Submit(c); err != nil {
			b.Fatal(err)
		}
	}
	// A worker's first batches take a hundred times as long as the later ones.
	for began := time.Now(); time.Since(began) < 100*time.Millisecond; {
		again()
	}
	b.ReportAllocs()
	for b.Loop() {
		again()
	}
	for range inFlight {
		<-free
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "queries/s")
}
