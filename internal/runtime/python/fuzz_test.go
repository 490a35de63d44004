package python

import (
	"encoding/binary"
	"encoding/json"
	"io"
	"os/exec"
	"testing"
	"time"

	"github.com/shoalserve/shoal/batch"
	"github.com/shoalserve/shoal/internal/serving"
	"github.com/shoalserve/shoal/internal/wire"
)

// FuzzFramesOfAWorker gives a worker's frames to the server's side, with a batch of
// two queries in flight that has a region. Whatever they hold, nothing panics,
// and a batch ends at most once.
func FuzzFramesOfAWorker(f *testing.F) {
	u32, u64 := binary.LittleEndian.AppendUint32, binary.LittleEndian.AppendUint64
	result := append(u32(u32(append(u32(u64(nil, 1), 2), 1, 2), 1), 2), "1ab"...)
	layout := `[[null,"<i8",[2]]]`
	answers := append(u32(u32(u64(nil, 1), 2), uint32(len(layout))), layout...)
	answers = append(append(answers, make([]byte, 63-len(answers))...), make([]byte, 16)...)
	failure := append(u32(u64(nil, 1), 14), `{"type":"Bad"}`...)
	for kind, body := range map[wire.Kind][]byte{wire.Result: result, wire.Answers: answers, wire.Error: failure} {
		f.Add(byte(kind), body, []byte(nil))
		f.Add(byte(wire.Shared), u64(u64(nil, 1), uint64(1+len(body))), append([]byte{byte(kind)}, body...))
	}
	f.Add(byte(wire.Keep), u64(nil, 1), []byte(nil))
	f.Add(byte(wire.Free), u64(nil, 1), []byte(nil))
	f.Add(byte(wire.Answers), append(u32(u32(u64(nil, 1), 1<<31), 22), `[[null,"|u1",[9999,0]]]`...), []byte(nil))
	f.Fuzz(func(t *testing.T, kind byte, body, room []byte) {
		w, run := fakeWorker(t, room)
		for range 2 {
			_ = w.take(wire.Kind(kind), body)
		}
		if ended := run(); ended > 1 {
			t.Errorf("the batch ended %d times", ended)
		}
	})
}

// fakeWorker is a worker without a process, with a batch in flight. run ends the
// batch if nobody did, and returns how often it had ended.
func fakeWorker(t *testing.T, room []byte) (w *worker, run func() int) {
	a := mustArena(t)
	w = &worker{
		process: &process{arena: a, cmd: exec.Command("none")}, backend: "model:v1",
		inFlight: make(map[uint64]*callBatch), exited: make(chan struct{}), ended: make(chan struct{}),
	}
	var batches []*callBatch
	b := batch.New(batch.Options[*serving.Call, serving.Response]{Limits: batch.Limits{MaxBatchSize: 2, BatchWaitTimeout: time.Hour, MaxQueued: 2}})
	b.Attach(1, func(b *callBatch) { batches = append(batches, b) })
	ended := 0
	for range 2 {
		q := &batch.Query[*serving.Call, serving.Response]{In: &serving.Call{}, Done: func(q *batch.Query[*serving.Call, serving.Response]) {
			ended++
			if it := q.Out.Item; q.Err == nil && !it.IsZero() {
				_, _ = it.AppendJSON(nil)
			}
		}}
		if err := b.Submit(q); err != nil {
			t.Fatal(err)
		}
	}
	w.inFlight[1] = batches[0]
	r, ok := a.take(1, 0, max(1, len(room)))
	if !ok {
		t.Fatal("no room")
	}
	copy(a.bytes(r.room), room)
	return w, func() int {
		times := ended / 2
		if rest := w.claim(1); rest != nil {
			rest.Finish(nil, io.EOF)
		}
		return times
	}
}

// FuzzReady gives what a worker says of its arrays to the server: it is refused, or
// queries can be decoded by it.
func FuzzReady(f *testing.F) {
	for _, seed := range []string{
		`{"":{"inputs":[{"name":"x","dtype":"float32","shape":[-1,3]}],"requests":true}}`, `{"a":{"inputs":[]}}`, `{"a":null}`, `{"":{"inputs":null}}`,
		`{"":{"inputs":[{"name":"x","pad":"longest","mask":true,"pad_value":"nan"},{"name":"x_mask"}]}}`, `{"":{"inputs":[{"name":"x","pad":[0]}]}}`,
		`{"":{"inputs":[{"name":"","shape":[-2]}]}}`, `{"":{"inputs":[{"name":"x","shape":[9223372036854775807,9223372036854775807]}]}}`,
		`{"":{"inputs":[{"name":"x","dtype":"object"}]}}`, `{"":{"inputs":[{"name":"x","pad":[4,2,9],"lengths":true,"shape":[-1]}]}}`,
	} {
		f.Add([]byte(seed), []byte(`{"x":[1,2.5]}`))
	}
	f.Fuzz(func(t *testing.T, raw, body []byte) {
		var arrays map[string]json.RawMessage
		if json.Unmarshal(raw, &arrays) != nil {
			return
		}
		methods, err := readMethods(arrays)
		if err != nil {
			return
		}
		for _, m := range methods {
			if row, err := m.signature.DecodeRequest("application/json", "/", body); err == nil {
				row.Release()
			}
		}
	})
}
