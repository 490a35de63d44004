package admin

import (
	"bufio"
	"bytes"
	"testing"
	"time"

	"github.com/shoalserve/shoal/internal/wire"
)

func FuzzParseQuery(f *testing.F) {
	for _, frame := range [][]byte{
		ask(nil, 1, 0, "", "", "", "", ""),
		ask(nil, 1<<63, time.Hour, "e", "predict", "key", `{"encoding":"json"}`, `{"data":1}`),
		ask(nil, 1, 0, "ü", "", "", "", ""),
		askFor(nil, []uint64{1}, 0, -3, "batch job", "e", "", "", "", []string{"x"}),
		askTogether(nil, []uint64{3, 5, 4}, time.Second, "e", "", "k", "{}", []string{"one", "", "three"}),
	} {
		f.Add(frame[wire.HeaderSize:])
		f.Add(frame[wire.HeaderSize : len(frame)-1])
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		q, err := parseQuery(body)
		if err != nil {
			return
		}
		whole := q
		var refs []uint64
		var payloads []string
		for q.count() > 0 {
			ref, payload := q.next()
			refs, payloads = append(refs, ref), append(payloads, string(payload))
		}
		again := askFor(nil, refs, whole.timeout, whole.priority, string(whole.caller), string(whole.endpoint), string(whole.method), string(whole.shardKey), string(whole.head), payloads)
		if !bytes.Equal(again[wire.HeaderSize:], body) {
			t.Errorf("%x was read as %x", body, again)
		}
	})
}

func FuzzReadFrame(f *testing.F) {
	f.Add(ask(nil, 1, 0, "e", "", "", "", "payload"))
	f.Add(append(cancelFrame(1), cancelFrame(2)...))
	f.Add([]byte{0, 0, 0, 0, 16})
	f.Add([]byte{255, 255, 255, 255, 16})
	f.Add([]byte{0, 0, 32, 0, 16, 1, 2, 3})
	f.Fuzz(func(t *testing.T, stream []byte) {
		in, blocks := bufio.NewReaderSize(bytes.NewReader(stream), 16), func() {}
		same := bytes.NewReader(stream)
		for {
			kind, body, err := readFrame(in, blocks, nil)
			if err != nil {
				return // wire.Read may take longer frames to fail in another way
			}
			wantKind, want, wantErr := wire.Read(same)
			if wantErr != nil || kind != wantKind || !bytes.Equal(body, want) {
				t.Fatalf("kind %d, %x; wire.Read gives %d, %x, %v", kind, body, wantKind, want, wantErr)
			}
			if _, err := parseCancel(body); err == nil && len(body) != 8 {
				t.Error("a CANCEL of another length was taken")
			}
		}
	})
}

func FuzzDecodeStrict(f *testing.F) {
	f.Add([]byte(`{"python":{"kind":"file","path":"a.py","object":"A"},"config":{}}`))
	f.Add([]byte(`{"python":3}`))
	f.Add([]byte(`{} x`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		var spec BackendSpec
		if err := decodeStrict(raw, &spec); err != nil && codeOf(err) != "InvalidArgument" {
			t.Errorf("error without its code: %v", err)
		}
	})
}
