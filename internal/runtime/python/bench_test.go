package python

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/shoalserve/shoal/batch"
	"github.com/shoalserve/shoal/internal/serving"
)

// BenchmarkWorker is the way of a JSON query through one worker and back,
// without HTTP, in a closed loop.
func BenchmarkWorker(b *testing.B) {
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
			request := &serving.Request{ID: "0123456789abcdef", Method: "POST", Target: "/increment", Body: []byte("41")}
			request.Header = map[string][]string{"Content-Type": {"application/json"}, "Content-Length": {"2"}}
			free := make(chan *serving.Call, inFlight)
			for range inFlight {
				free <- &serving.Call{Origin: batch.Web, Request: request, Backend: backend, Done: func(c *serving.Call) { free <- c }}
			}
			b.ReportAllocs()
			for b.Loop() {
				c := <-free
				if c.Err != nil {
					b.Fatal(c.Err)
				}
				if err := backend.Submit(c); err != nil {
					b.Fatal(err)
				}
			}
			for range inFlight {
				<-free
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "queries/s")
		})
	}
}
