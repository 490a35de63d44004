package admin

import (
	"bytes"
	"io"
	"testing"

	"github.com/shoalserve/shoal/internal/serving"
	"github.com/shoalserve/shoal/internal/wire"
)

// BenchmarkLink measures queries through a link with 64 in flight: the client
// sends another query for each answer, as many at a time as came together.
func BenchmarkLink(b *testing.B) {
	b.Run("answered within submit", func(b *testing.B) {
		backend := newFake("m")
		backend.respond = echo
		benchmarkLink(b, backend)
	})
	b.Run("answered elsewhere", func(b *testing.B) {
		backend := &workerBackend{fakeBackend: newFake("m"), calls: make(chan *serving.Call, 4096)}
		go backend.work()
		defer close(backend.calls)
		benchmarkLink(b, backend)
	})
}

// workerBackend answers from one goroutine of its own.
type workerBackend struct {
	*fakeBackend
	calls chan *serving.Call
}

func (w *workerBackend) Submit(c *serving.Call) error {
	w.calls <- c
	return nil
}

func (w *workerBackend) work() {
	for c := range w.calls {
		echo(c)
		c.Done(c)
	}
}

func benchmarkLink(b *testing.B, backend serving.Backend) {
	const inFlight = 64
	s := serve(b, Options{})
	s.deploy(b, backend)
	l := s.link(b)
	query := ask(nil, 0, 0, "e", "", "", "", "a pickle of some thirty bytes..")
	answer := make([]byte, 4+answerFixed+31)
	frames := make([]byte, 0, inFlight*len(query))
	ref, waiting := uint64(0), 0
	b.ReportAllocs()
	b.ResetTimer()
	for answered := 0; answered < b.N; {
		frames = frames[:0]
		for ; waiting < inFlight && int(ref) < b.N; waiting++ {
			frames = appendQuery(frames, query, ref)
			ref++
		}
		if len(frames) > 0 {
			l.send(b, frames)
		}
		for {
			if _, err := io.ReadFull(l.in, answer); err != nil {
				b.Fatal(err)
			}
			if wire.Kind(answer[4]) != wire.Answer || answer[13] != 6 || !bytes.Equal(answer[14:], []byte("a pickle of some thirty bytes..")) {
				b.Fatalf("answer is %q", answer)
			}
			waiting--
			answered++
			if waiting == 0 || l.in.Buffered() < len(answer) {
				break
			}
		}
	}
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "queries/s")
}

// appendQuery appends a QUERY frame like query but with another ref id.
func appendQuery(frames, query []byte, ref uint64) []byte {
	at := len(frames) + wire.HeaderSize
	frames = append(frames, query...)
	for i := range 8 {
		frames[at+i] = byte(ref >> (8 * i))
	}
	return frames
}
