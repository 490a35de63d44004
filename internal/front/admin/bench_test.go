package admin

import (
	"bytes"
	"encoding/binary"
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
	const payload = "a pickle of some thirty bytes.."
	s := serve(b, Options{})
	s.deploy(b, backend)
	l := s.link(b)
	var frame []byte
	refs, payloads := make([]uint64, 0, inFlight), make([]string, 0, inFlight)
	ref, waiting, frames := uint64(0), 0, 0
	b.ReportAllocs()
	b.ResetTimer()
	for answered := 0; answered < b.N; {
		refs, payloads = refs[:0], payloads[:0]
		for ; waiting < inFlight && int(ref) < b.N; waiting++ {
			refs, payloads = append(refs, ref), append(payloads, payload)
			ref++
		}
		if len(refs) > 0 {
			frame = askTogether(frame[:0], refs, 0, "e", "", "", "", payloads)
			l.send(b, frame)
		}
		for {
			kind, body, err := wire.Read(l.in)
			if err != nil || kind != wire.Answer || !bytes.HasSuffix(body, []byte(payload)) {
				b.Fatalf("got a frame of kind %d, %q, %v", kind, body, err)
			}
			n := int(binary.LittleEndian.Uint32(body))
			if len(body) != 4+n*(answerEach+len(payload)) {
				b.Fatalf("%d answers have %d bytes", n, len(body))
			}
			frames++
			waiting -= n
			answered += n
			if waiting == 0 || l.in.Buffered() == 0 {
				break
			}
		}
	}
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "queries/s")
	b.ReportMetric(float64(b.N)/float64(frames), "answers/frame")
}
