package python

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"sync/atomic"

	"github.com/shoalserve/shoal/batch"
	"github.com/shoalserve/shoal/internal/serving"
	"github.com/shoalserve/shoal/internal/tensor"
	"github.com/shoalserve/shoal/internal/wire"
)

// arrayMethod is a method that takes arrays.
type arrayMethod struct {
	signature *tensor.Signature
	requests  bool // it takes the list of requests beside them
}

// readMethods reads the arrays of a READY frame.
func readMethods(raw map[string]json.RawMessage) (map[string]arrayMethod, error) {
	methods := make(map[string]arrayMethod)
	for name, text := range raw {
		var object struct {
			Inputs   []tensor.Input `json:"inputs"`
			Requests bool           `json:"requests"`
		}
		if err := json.Unmarshal(text, &object); err != nil {
			return nil, fmt.Errorf("method %q: %w", name, err)
		}
		signature, err := tensor.NewSignature(name, object.Inputs)
		if err != nil {
			return nil, fmt.Errorf("method %q: %w", name, err)
		}
		methods[name] = arrayMethod{signature, object.Requests}
	}
	return methods, nil
}

// hasRequests is the flag of an ARRAYS frame that holds the requests too.
const hasRequests = 2

// layOutRows builds an ARRAYS frame, all but the arrays themselves.
func (f *frameWriter) layOutRows(b *callBatch) error {
	for _, q := range b.Queries {
		f.rows.Add(q.In.Row())
	}
	size, err := f.rows.Measure()
	if err != nil {
		return err
	}
	method := b.Queries[0].In.Method
	more := byte(0)
	if f.methods[method].requests {
		more = hasRequests
	}
	if err := f.begin(wire.Arrays, b, more); err != nil {
		return err
	}
	at := len(f.buf)
	f.buf = append(f.buf, 0, 0, 0, 0)
	f.buf = append(f.buf, method...)
	start := len(f.buf)
	f.buf = f.rows.AppendLayout(f.buf)
	binary.LittleEndian.PutUint32(f.buf[at:], uint32(len(f.buf)-start))
	if more != 0 {
		lengths := len(f.buf)
		f.buf = append(f.buf, make([]byte, 8*len(b.Queries))...)
		f.addRequests(b, lengths)
	}
	// Counted from the frame's kind, with what goes elsewhere until it is written.
	end := len(f.buf) - sharedHead + f.loose
	f.buf = append(f.buf, make([]byte, align(end, tensor.Alignment)-end)...)
	f.block = size
	return nil
}

// answersHead is what an ANSWERS frame holds after its kind and before its layout.
const answersHead = 8 + 4 + 4

// answers completes a batch from the body of an ANSWERS frame, which may lie in
// memory that the worker can still write to: each number is read once.
func (w *worker) answers(body []byte) error {
	if len(body) < answersHead {
		return fmt.Errorf("ANSWERS frame of %d bytes is too short", len(body))
	}
	id, n := binary.LittleEndian.Uint64(body), int(binary.LittleEndian.Uint32(body[8:]))
	length := binary.LittleEndian.Uint32(body[12:])
	if uint64(length) > uint64(len(body)-answersHead) {
		return fmt.Errorf("ANSWERS frame of %d bytes holds no layout of %d bytes", len(body), length)
	}
	end := answersHead + int(length)
	start := align(1+end, tensor.Alignment) - 1 // the kind comes before the body
	if start > len(body) {
		return fmt.Errorf("ANSWERS frame of %d bytes ends before its first array", len(body))
	}
	answers, err := w.reader.Read(body[answersHead:end], body[start:])
	if err != nil {
		return err
	}
	if answers.Len() != n {
		return fmt.Errorf("ANSWERS frame says %d answers and holds %d", n, answers.Len())
	}
	b := w.claim(id)
	if b == nil {
		return fmt.Errorf("answer to batch %d, which is not in flight", id)
	}
	defer w.arena.answered(id)
	w.answer.learn(len(body), len(b.Queries))
	if n != len(b.Queries) {
		b.Finish(nil, &batch.CountError{Name: w.backend, Expected: len(b.Queries), Got: n})
		return nil
	}
	for i, q := range b.Queries {
		q.Out = serving.Response{Item: answers.Item(i)}
	}
	b.Complete()
	return nil
}

// answerSize learns how large a worker's answers are, so that the next ones find
// room in shared memory.
type answerSize struct{ perQuery atomic.Int64 }

// learn takes note of an answer.
func (a *answerSize) learn(bytes, queries int) {
	one := int64(bytes / max(1, queries))
	old := a.perQuery.Load()
	a.perQuery.Store(max(one, old-old/8)) // only read stores
}

// expect is the room that a batch's answer will probably need.
func (a *answerSize) expect(b *callBatch) int {
	perQuery := int(a.perQuery.Load())
	if perQuery == 0 {
		return 0
	}
	return (perQuery + perQuery/4) * len(b.Queries)
}
