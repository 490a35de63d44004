package python

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/shoalserve/shoal/internal/wire"
)

// faultyWorker speaks the worker's side of the protocol of docs/protocol.md and
// breaks it when its dice say so. It runs as a process or as a goroutine.
type faultyWorker struct {
	conn   io.ReadWriter
	claims int                 // the descriptor of the pipe
	memory []byte              // shared with the server
	print  func([]byte)        // to standard output
	die    func(how death)     // does not return
	hang   func()              // does not return
	tell   func(deed)          // writes down what is about to be done
	dice   *rand.Rand          // of this worker alone
	plan   plan                // what may happen
	name   string              // of this worker
	in     *bufio.Reader       // of conn
	claim  map[uint64]struct{} // ids that were read from the pipe
}

// plan says how often a worker does wrong.
type plan struct {
	Seed uint64
	// Faults is the share of batches that something is done wrong with, Fatal the
	// part of them that may be fatal to the worker, Init that of starts.
	Faults, Fatal, Init float64
	// Hangs allows the faults after which the worker never does anything again.
	Hangs bool
	// Lives is how many workers a replica may use up until they behave.
	Lives int
}

// death is a way to end.
type death int

const (
	exits death = iota
	exitsWithError
	killed
	crashes
)

// deed is what a worker did with a batch, written down before it does it.
type deed struct {
	Worker  string `json:"worker"`
	Queries []int  `json:"queries"`
	Fault   string `json:"fault"`
	Guilty  []int  `json:"guilty,omitempty"` // the queries that are answered otherwise than asked for
}

// asked is a query as the worker sees it.
type asked struct {
	id      int
	kind    kind
	payload []byte
}

// kind is what a query does to a worker.
type kind string

const (
	good   kind = "good"
	fails  kind = "fails"  // its own answer is an error
	raises kind = "raises" // the batch that it is in raises
	kills  kind = "kills"  // the worker that computes it dies
)

// received is a batch as the worker sees it.
type received struct {
	id      uint64
	queries []asked
	rows    []int64 // instead of payloads, for the method that takes arrays
	width   int
	room    []byte // for the answer, in shared memory
	region  bool   // it has shared memory
}

// run serves until the socket ends.
func (w *faultyWorker) run() error {
	w.in = bufio.NewReader(w.conn)
	w.claim = make(map[uint64]struct{})
	if err := w.start(); err != nil {
		return err
	}
	for {
		kind, body, err := wire.Read(w.in)
		if err != nil {
			return err
		}
		if kind == wire.Ping {
			if err := w.send(wire.Pong); err != nil {
				return err
			}
			continue
		}
		b, err := w.receive(kind, body)
		if err != nil {
			w.tell(deed{Worker: w.name, Fault: "unreadable: " + err.Error()})
			return err
		}
		if b == nil {
			continue // taken back
		}
		if err := w.compute(b); err != nil {
			return err
		}
	}
}

const readyFormat = `{"protocol":%d,"pid":1,"python":"3","sdk":"0","accepts_batch":true,"source":"function","doc":"",` +
	`"arrays":{"rows":{"inputs":[{"name":"x","dtype":"int64"}],"requests":false}}}`

// start answers INIT, or does something else.
func (w *faultyWorker) start() error {
	kind, _, err := wire.Read(w.in)
	if err != nil || kind != wire.Init {
		return fmt.Errorf("waiting for INIT: kind %d, %w", kind, err)
	}
	ready := fmt.Appendf(nil, readyFormat, wire.Version)
	if w.dice.Float64() >= w.plan.Init {
		return w.send(wire.Ready, ready)
	}
	switch w.dice.IntN(7) {
	case 0:
		w.die(exitsWithError)
	case 1:
		w.die(killed)
	case 2:
		return w.send(wire.Failed, []byte(`{"type":"ImportError","message":"injected","traceback":"…"}`))
	case 3:
		return w.send(wire.Ready, []byte(`{"protocol":1,"pid"`))
	case 4:
		return w.send(wire.Ready, fmt.Appendf(nil, readyFormat, wire.Version+1))
	case 5:
		return w.send(wire.Result, w.noise(40))
	}
	frame := w.frame(wire.Ready, ready)
	_, _ = w.conn.Write(frame[:w.dice.IntN(len(frame))])
	w.die(exits)
	return nil
}

func (w *faultyWorker) frame(kind wire.Kind, parts ...[]byte) []byte {
	frame := append(wire.Begin(nil, kind), bytes.Join(parts, nil)...)
	if err := wire.End(frame, 0, 0); err != nil {
		panic(err)
	}
	return frame
}

func (w *faultyWorker) send(kind wire.Kind, parts ...[]byte) error {
	_, err := w.conn.Write(w.frame(kind, parts...))
	return err
}

func (w *faultyWorker) noise(n int) []byte {
	b := make([]byte, w.dice.IntN(n))
	for i := range b {
		b[i] = byte(w.dice.Uint32())
	}
	return b
}

// receive reads a frame with a batch; nil is one that the server took back.
func (w *faultyWorker) receive(kind wire.Kind, body []byte) (*received, error) {
	b := new(received)
	if kind == wire.Ping {
		_ = w.send(wire.Pong) // if it cannot be sent, the next read tells
		return nil, nil
	}
	if kind == wire.Shared {
		if len(body) < 41 {
			return nil, fmt.Errorf("SHARED of %d bytes", len(body))
		}
		var at [4]uint64
		for i := range at {
			at[i] = binary.LittleEndian.Uint64(body[9+8*i:])
		}
		if body[8]&mustClaim != 0 && !w.mine(binary.LittleEndian.Uint64(body)) {
			return nil, nil
		}
		b.region = true
		b.room = w.memory[at[2] : at[2]+at[3]]
		frame := body[41:]
		if at[1] > 0 {
			frame = bytes.Clone(w.memory[at[0] : at[0]+at[1]])
		}
		kind, body = wire.Kind(frame[0]), frame[1:]
	} else if body[1]&mustClaim != 0 && !w.mine(binary.LittleEndian.Uint64(body[8:])) {
		return nil, nil
	}
	b.id = binary.LittleEndian.Uint64(body[8:])
	switch kind {
	case wire.Batch:
		err := b.readQueries(body)
		return b, err
	case wire.Arrays:
		err := b.readRows(body)
		return b, err
	}
	return nil, fmt.Errorf("a frame of kind %d", kind)
}

// mine reports whether a batch that was sent ahead is this worker's.
func (w *faultyWorker) mine(id uint64) bool {
	var buf [8]byte
	for {
		if _, ok := w.claim[id]; ok {
			delete(w.claim, id)
			return true
		}
		n, err := syscall.Read(w.claims, buf[:])
		switch {
		case errors.Is(err, syscall.EINTR):
		case n != len(buf):
			return false
		default:
			w.claim[binary.LittleEndian.Uint64(buf[:])] = struct{}{}
		}
	}
}

// readQueries reads the body of a BATCH frame.
func (b *received) readQueries(body []byte) error {
	method, n := int(binary.LittleEndian.Uint16(body[2:])), int(binary.LittleEndian.Uint32(body[4:]))
	lengths, data := body[16:16+8*n], body[16+8*n+method:]
	for i := range n {
		head, payload := binary.LittleEndian.Uint32(lengths[8*i:]), binary.LittleEndian.Uint32(lengths[8*i+4:])
		q, err := read(data[head : head+payload])
		if err != nil {
			return err
		}
		// A batch holds one origin and one method, which each query says it has.
		if want := fmt.Sprintf(" %d %s ", body[0], body[16+8*n:16+8*n+method]); !bytes.Contains(q.payload, []byte(want)) {
			return fmt.Errorf("query %d is in a batch of origin and method%s", q.id, want)
		}
		b.queries, data = append(b.queries, q), data[head+payload:]
	}
	if len(data) > 0 {
		return fmt.Errorf("%d bytes left over", len(data))
	}
	return nil
}

// read reads a query: "kind id origin method …".
func read(payload []byte) (asked, error) {
	words := strings.SplitN(string(payload[:min(len(payload), 100)]), " ", 3)
	if len(words) < 3 {
		return asked{}, fmt.Errorf("the query %q", payload)
	}
	id, err := strconv.Atoi(words[1])
	return asked{id: id, kind: kind(words[0]), payload: payload}, err
}

// readRows reads the body of an ARRAYS frame: x[i] begins with the query's number
// and the number of its kind.
func (b *received) readRows(body []byte) error {
	method, n := int(binary.LittleEndian.Uint16(body[2:])), int(binary.LittleEndian.Uint32(body[4:]))
	layout := int(binary.LittleEndian.Uint32(body[16:]))
	end := 20 + method + layout
	if want := fmt.Sprintf(`[["x","<i8",[%d,`, n); !strings.HasPrefix(string(body[20+method:end]), want) {
		return fmt.Errorf("the layout %q", body[20+method:end])
	}
	data := body[align(1+end, 64)-1:]
	b.rows, b.width = make([]int64, len(data)/8), len(data)/8/n
	for i := range b.rows {
		b.rows[i] = int64(binary.LittleEndian.Uint64(data[8*i:]))
	}
	for i := range n {
		row := b.rows[i*b.width:]
		b.queries = append(b.queries, asked{id: int(row[0]), kind: rowKinds[row[1]]})
	}
	return nil
}

// rowKinds are numbered in rows.
var rowKinds = []kind{good, fails, raises, kills}

// answerTo is what the model answers to a payload.
func answerTo(payload []byte) []byte {
	answer := fmt.Appendf(nil, "%08x ", crc32.ChecksumIEEE(payload))
	if len(payload) > 1000 { // a large answer to a large question
		return append(answer, payload...)
	}
	return append(answer, payload[:min(len(payload), 20)]...)
}

// rowAnswer is what the model answers to a number of a row.
func rowAnswer(x int64) int64 { return 3*x + 1 }

// compute answers a batch, or does something else.
func (w *faultyWorker) compute(b *received) error {
	what := w.choose(b)
	d := deed{Worker: w.name, Fault: what.name}
	for _, q := range b.queries {
		d.Queries = append(d.Queries, q.id)
		if q.kind == fails {
			d.Guilty = append(d.Guilty, q.id)
		}
	}
	if what.spoils {
		d.Guilty = append(d.Guilty, b.queries[w.dice.IntN(len(b.queries))].id)
	}
	w.tell(d)
	return what.do(w, b, d)
}

// choose says what to do: what the batch's queries want, or a fault.
func (w *faultyWorker) choose(b *received) fault {
	for _, q := range b.queries {
		if q.kind == raises {
			return raise
		}
		if q.kind == kills {
			return fault{name: "killed by a query", doom: true, do: func(w *faultyWorker, _ *received, _ deed) error {
				w.die([]death{exitsWithError, killed, crashes}[q.id%3])
				return nil
			}}
		}
	}
	if w.dice.Float64() >= w.plan.Faults {
		return right
	}
	choice := faults
	if w.dice.Float64() < w.plan.Fatal {
		choice = fatalFaults
		if w.plan.Hangs && w.dice.IntN(2) == 0 {
			choice = hangs
		}
	}
	return choice[w.dice.IntN(len(choice))]
}

// answer is the frame of the right answer, but for the queries that are guilty.
func (w *faultyWorker) answer(b *received, guilty []int) []byte {
	if b.rows != nil && len(guilty) == 0 {
		return w.frame(wire.Answers, b.arrays())
	}
	var codes, data []byte
	var lengths []uint32
	for i, q := range b.queries {
		code, payload := byte(2), []byte(nil)
		switch {
		case slices.Contains(guilty, q.id):
			code, payload = wire.ErrorCode, failure(fmt.Sprintf("query %d failed", q.id))
		case b.rows != nil:
			code, payload = 1, rowJSON(b.rows[i*b.width:(i+1)*b.width])
		default:
			payload = answerTo(q.payload)
		}
		codes, lengths, data = append(codes, code), append(lengths, uint32(len(payload))), append(data, payload...)
	}
	return w.frame(wire.Result, resultBody(b.id, codes, lengths, data))
}

func resultBody(id uint64, codes []byte, lengths []uint32, data []byte) []byte {
	body := binary.LittleEndian.AppendUint64(nil, id)
	body = append(binary.LittleEndian.AppendUint32(body, uint32(len(codes))), codes...)
	for _, n := range lengths {
		body = binary.LittleEndian.AppendUint32(body, n)
	}
	return append(body, data...)
}

// arrays is the body of an ANSWERS frame.
func (b *received) arrays() []byte {
	layout := fmt.Sprintf(`[[null,"<i8",[%d,%d]]]`, len(b.queries), b.width)
	body := binary.LittleEndian.AppendUint64(nil, b.id)
	body = binary.LittleEndian.AppendUint32(body, uint32(len(b.queries)))
	body = append(binary.LittleEndian.AppendUint32(body, uint32(len(layout))), layout...)
	body = append(body, make([]byte, align(1+len(body), 64)-1-len(body))...)
	for _, x := range b.rows {
		body = binary.LittleEndian.AppendUint64(body, uint64(rowAnswer(x)))
	}
	return body
}

func rowJSON(row []int64) []byte {
	answers := make([]int64, len(row))
	for i, x := range row {
		answers[i] = rowAnswer(x)
	}
	return rowText(answers)
}

func rowText(row []int64) []byte {
	text := []byte{'['}
	for _, x := range row {
		text = append(strconv.AppendInt(text, x, 10), ',')
	}
	text[len(text)-1] = ']'
	return text
}

// failure is an error payload.
func failure(message string) []byte {
	object := fmt.Sprintf(`{"type":"Injected","message":%q,"traceback":"…","status":500,"headers":{}}`, message)
	return append(binary.LittleEndian.AppendUint32(nil, uint32(len(object))), object...)
}

// deliver sends an answer, through shared memory if there is room and the dice say so.
func (w *faultyWorker) deliver(b *received, frame []byte) error {
	if content := frame[4:]; len(content) <= len(b.room) && w.dice.IntN(4) > 0 {
		copy(b.room, content)
		return w.send(wire.Shared, word(b.id), word(uint64(len(content))))
	}
	_, err := w.conn.Write(frame)
	return err
}

func word(n uint64) []byte { return binary.LittleEndian.AppendUint64(nil, n) }

// fault is something that a worker does with a batch.
type fault struct {
	name   string
	doom   bool // the server must give the worker up
	spoils bool // one query more gets an error
	do     func(w *faultyWorker, b *received, d deed) error
}

var right = fault{name: "right", do: func(w *faultyWorker, b *received, d deed) error {
	return w.deliver(b, w.answer(b, d.Guilty))
}}

var raise = fault{name: "raise", do: func(w *faultyWorker, b *received, _ deed) error {
	return w.send(wire.Error, word(b.id), failure("the batch raised"))
}}

// faults are those that a worker survives.
var faults = []fault{
	raise,
	{name: "late", do: func(w *faultyWorker, b *received, d deed) error {
		time.Sleep(time.Duration(w.dice.IntN(5_000)) * time.Microsecond)
		return right.do(w, b, d)
	}},
	{name: "an item fails", spoils: true, do: func(w *faultyWorker, b *received, d deed) error { return right.do(w, b, d) }},
	{name: "too few", do: func(w *faultyWorker, b *received, _ deed) error {
		return w.count(b, w.dice.IntN(len(b.queries)))
	}},
	{name: "too many", do: func(w *faultyWorker, b *received, _ deed) error {
		return w.count(b, len(b.queries)+1+w.dice.IntN(3))
	}},
	{name: "unknown codes", do: func(w *faultyWorker, b *received, _ deed) error {
		n := len(b.queries)
		return w.send(wire.Result, resultBody(b.id, bytes.Repeat([]byte{byte(7 + w.dice.IntN(200))}, n), make([]uint32, n), nil))
	}},
	{name: "stdout flood", do: func(w *faultyWorker, b *received, d deed) error {
		line := bytes.Repeat([]byte{'x'}, 1+w.dice.IntN(40_000))
		for range 1 + w.dice.IntN(8) {
			w.print(line)
			if w.dice.IntN(2) == 0 {
				w.print([]byte{'\n'})
			}
		}
		return right.do(w, b, d)
	}},
	{name: "kept", do: func(w *faultyWorker, b *received, d deed) error {
		if !b.region {
			return right.do(w, b, d)
		}
		if err := w.send(wire.Keep, word(b.id)); err != nil {
			return err
		}
		if err := right.do(w, b, d); err != nil {
			return err
		}
		if w.dice.IntN(2) == 0 {
			return nil // it never lets go of it
		}
		return w.send(wire.Free, word(b.id))
	}},
}

// count answers with another number of answers.
func (w *faultyWorker) count(b *received, n int) error {
	lengths := make([]uint32, n)
	var data []byte
	for i := range n {
		q := b.queries[i%len(b.queries)]
		data = append(data, answerTo(q.payload)...)
		lengths[i] = uint32(len(answerTo(q.payload)))
	}
	return w.send(wire.Result, resultBody(b.id, bytes.Repeat([]byte{2}, n), lengths, data))
}

// fatalFaults are those after which the server must give the worker up.
var fatalFaults = []fault{
	{name: "exit before", doom: true, do: func(w *faultyWorker, _ *received, _ deed) error {
		w.die(death(w.dice.IntN(4)))
		return nil
	}},
	{name: "exit after", doom: true, do: func(w *faultyWorker, b *received, d deed) error {
		_ = w.deliver(b, w.answer(b, d.Guilty))
		w.die(exits)
		return nil
	}},
	{name: "half a frame", doom: true, do: func(w *faultyWorker, b *received, d deed) error {
		frame := w.answer(b, d.Guilty)
		_, _ = w.conn.Write(frame[:w.dice.IntN(len(frame))])
		w.die(death(w.dice.IntN(4)))
		return nil
	}},
	{name: "garbage", doom: true, do: func(w *faultyWorker, b *received, d deed) error {
		_, _ = w.conn.Write(append([]byte{9, 0, 0, 0, byte(w.dice.Uint32())}, append(w.noise(200), 1)...))
		_, err := w.conn.Write(w.noise(1000))
		w.hang()
		return err
	}},
	{name: "a huge frame", doom: true, do: func(w *faultyWorker, _ *received, _ deed) error {
		_, _ = w.conn.Write([]byte{255, 255, 255, 255, byte(wire.Result)})
		w.hang()
		return nil
	}},
	{name: "an empty frame", doom: true, do: func(w *faultyWorker, _ *received, _ deed) error {
		_, _ = w.conn.Write(make([]byte, wire.HeaderSize))
		w.hang()
		return nil
	}},
	{name: "answered twice", doom: true, do: func(w *faultyWorker, b *received, d deed) error {
		frame := w.answer(b, d.Guilty)
		_, err := w.conn.Write(append(frame, frame...))
		return err
	}},
	{name: "an answer to nobody", doom: true, do: func(w *faultyWorker, b *received, _ deed) error {
		return w.send(wire.Result, resultBody(b.id+1+w.dice.Uint64N(1000)<<32, []byte{2}, []uint32{0}, nil))
	}},
	{name: "an error to nobody", doom: true, do: func(w *faultyWorker, b *received, _ deed) error {
		return w.send(wire.Error, word(b.id+1<<40), failure("injected"))
	}},
	{name: "an unreadable error", doom: true, do: func(w *faultyWorker, b *received, _ deed) error {
		return w.send(wire.Error, word(b.id), w.noise(4))
	}},
	{name: "kept what it has not", doom: true, do: func(w *faultyWorker, b *received, _ deed) error {
		return w.send(wire.Keep, word(b.id+1<<40))
	}},
	{name: "frees what it did not keep", doom: true, do: func(w *faultyWorker, b *received, _ deed) error {
		return w.send(wire.Free, word(b.id))
	}},
	{name: "lies of shared memory", doom: true, do: func(w *faultyWorker, b *received, _ deed) error {
		return w.send(wire.Shared, word(b.id), word(uint64(len(b.room))+1+w.dice.Uint64N(1<<62)))
	}},
	{name: "garbage in shared memory", doom: true, do: func(w *faultyWorker, b *received, _ deed) error {
		copy(b.room, bytes.Repeat([]byte{byte(12 + w.dice.IntN(200))}, 100))
		return w.send(wire.Shared, word(b.id), word(uint64(min(100, len(b.room)))))
	}},
	{name: "lengths that lie", doom: true, do: func(w *faultyWorker, b *received, _ deed) error {
		return w.send(wire.Result, resultBody(b.id, []byte{2, 2}, []uint32{1, 1 << 31}, []byte("x")))
	}},
	{name: "arrays that lie", doom: true, do: func(w *faultyWorker, b *received, _ deed) error {
		layout := fmt.Sprintf(`[[null,"<i8",[%d,4611686018427387904]]]`, len(b.queries))
		body := binary.LittleEndian.AppendUint32(word(b.id), uint32(len(b.queries)))
		body = append(binary.LittleEndian.AppendUint32(body, uint32(len(layout))), layout...)
		return w.send(wire.Answers, body, make([]byte, 200))
	}},
}

// hangs are the faults that only a limit on a batch's time can end.
var hangs = []fault{
	{name: "hang", doom: true, do: func(w *faultyWorker, _ *received, _ deed) error {
		w.hang()
		return nil
	}},
	{name: "hang within a frame", doom: true, do: func(w *faultyWorker, b *received, d deed) error {
		frame := w.answer(b, d.Guilty)
		_, _ = w.conn.Write(frame[:w.dice.IntN(len(frame))])
		w.hang()
		return nil
	}},
	{name: "a large frame that never comes", doom: true, do: func(w *faultyWorker, _ *received, _ deed) error {
		_, _ = w.conn.Write([]byte{0, 0, 0, 32, byte(wire.Result)}) // 512 MiB
		w.hang()
		return nil
	}},
}

// codes are what callers are told of a fault that hurts a whole batch.
var codes = map[string]string{
	"raise": "Injected", "too few": "WrongAnswerCount", "too many": "WrongAnswerCount", "unknown codes": "Internal",
}
