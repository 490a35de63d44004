package rest

import (
	"bytes"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/shoalserve/shoal/internal/serving"
)

// A client that gives its streams no window takes no answer, though its connection
// takes bytes. Each is let go as one that does not read; the connection stays.
func TestAnHTTP2ClientWithoutAWindowIsLetGo(t *testing.T) {
	for name, size := range map[string]int{"a small answer": 1, "a large one": 3 * pacedChunk} {
		t.Run(name, func(t *testing.T) {
			body := serving.Response{Format: serving.Bytes, Body: make([]byte, size)}
			s := serve(t, Options{WriteTimeout: 50 * time.Millisecond}, answering("m", body))
			conn, from := s.dial()
			s.write(conn, http2.ClientPreface)
			frames := http2.NewFramer(conn, from)
			if err := frames.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0}); err != nil {
				t.Fatal(err)
			}
			for id := uint32(1); id < 6; id += 2 {
				get(t, frames, id, "/m")
				if code := endOf(t, frames, id); code == http2.ErrCodeNo {
					t.Errorf("stream %d got its answer", id)
				}
			}
		})
	}
}

// get begins a stream with a request.
func get(t *testing.T, to *http2.Framer, id uint32, path string) {
	t.Helper()
	var block bytes.Buffer
	head := hpack.NewEncoder(&block)
	for _, f := range [][2]string{{":method", "GET"}, {":scheme", "http"}, {":authority", "h"}, {":path", path}} {
		if err := head.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]}); err != nil {
			t.Fatal(err)
		}
	}
	err := to.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: true})
	if err != nil {
		t.Fatal(err)
	}
}

// endOf reads frames until a stream ends, and returns how.
func endOf(t *testing.T, from *http2.Framer, id uint32) http2.ErrCode {
	t.Helper()
	for {
		frame, err := from.ReadFrame()
		if err != nil {
			t.Fatalf("stream %d: %v", id, err)
		}
		switch f := frame.(type) {
		case *http2.RSTStreamFrame:
			if f.StreamID == id {
				return f.ErrCode
			}
		case *http2.DataFrame:
			if f.StreamID == id && f.StreamEnded() {
				return http2.ErrCodeNo
			}
		}
	}
}
