package python

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/shoalserve/shoal/batch"
	"github.com/shoalserve/shoal/internal/serving"
	"github.com/shoalserve/shoal/internal/tensor"
	"github.com/shoalserve/shoal/internal/wire"
)

type callBatch = batch.Batch[*serving.Call, serving.Response]

// worker is one running replica: a process and the batches that it has.
type worker struct {
	*process
	backend string
	index   int
	batched bool

	methods map[string]arrayMethod // those that take arrays
	takes   string                 // their declarations
	reader  tensor.AnswerReader    // used by read alone
	answer  answerSize

	writing sync.Mutex // guards the writing side of conn, and the fields below
	frame   frameWriter
	over    bool // batches are not taken any more

	sending atomic.Uint64 // the batch that is being written; 0 for none

	mu       sync.Mutex
	inFlight map[uint64]*callBatch
	unsent   []*callBatch // of which the worker never got a byte: it was dead
	stopping bool
	verdict  error     // why the worker was given up; nil while it was not
	guilty   uint64    // the batch that the verdict is about
	pinged   time.Time // when the PING was sent that was not answered; else zero
	halted   time.Time // since when the process is known to be stopped; else zero

	err    error         // why it ended; set before exited is closed
	exited chan struct{} // closed when it ended by itself
	ended  chan struct{} // closed when the process is gone and read has returned
}

func newWorker(p *process, spec serving.ReplicaSpec, batched bool, methods map[string]arrayMethod) *worker {
	w := &worker{
		process: p, backend: spec.Backend, index: spec.Index, batched: batched, methods: methods,
		frame:    frameWriter{arena: p.arena, methods: methods},
		inFlight: make(map[uint64]*callBatch), exited: make(chan struct{}), ended: make(chan struct{}),
	}
	go w.run() // ends with the process; Stop waits for it
	return w
}

// Batched implements serving.Instance.
func (w *worker) Batched() bool { return w.batched }

// Arrays implements serving.ArrayTaker.
func (w *worker) Arrays(method string) *tensor.Signature { return w.methods[method].signature }

// Takes implements serving.Taker.
func (w *worker) Takes() string { return w.takes }

// PID implements serving.Instance.
func (w *worker) PID() int { return w.cmd.Process.Pid }

// Exited implements serving.Instance.
func (w *worker) Exited() <-chan struct{} { return w.exited }

// Err implements serving.Instance.
func (w *worker) Err() error { return w.err }

// Run implements serving.Instance. It writes the batch to the worker from the
// caller's goroutine: a queue in between would only cost a wake-up.
func (w *worker) Run(b *callBatch) {
	w.writing.Lock()
	if w.over {
		w.writing.Unlock()
		b.Return()
		return
	}
	w.mu.Lock()
	w.inFlight[b.ID] = b
	w.sending.Store(b.ID)
	w.mu.Unlock()
	size, err := w.frame.prepare(b, w.answer.expect(b))
	if err != nil {
		w.sending.Store(0)
		w.writing.Unlock()
		// Nothing was written: the worker is well, the batch is not.
		if w.claim(b.ID) != nil {
			b.Finish(nil, serving.Errorf(serving.TooLarge, "backend %q: a batch of %d queries does not fit into one frame: %v", w.backend, len(b.Queries), err))
		}
		return
	}
	if b.Ahead && size > spareRoom {
		// The worker will not read it all before it is free, and the caller may
		// be the goroutine that is to read the worker's answer.
		go w.send(b) // ends with the process at the latest; failRest waits for it
		return
	}
	w.send(b)
}

// spareRoom is what certainly fits into the socket's buffers beside a batch
// that the worker has not read yet.
const spareRoom = 32 << 10

// send writes the batch that was prepared. writing is held, and given up.
func (w *worker) send(b *callBatch) {
	var err error
	var sent int64
	if b.Ahead {
		err = w.claims.offer(b.ID)
	}
	if err == nil {
		sent, err = w.frame.send(w.conn)
	}
	if err != nil && sent == 0 {
		w.keepUnsent(b.ID)
	}
	w.sending.Store(0)
	w.writing.Unlock()
	if err != nil {
		// The socket is broken, so run is about to find the worker dead; Stop
		// will end this batch with the others.
		w.kill()
	}
}

// keepUnsent takes a batch out of flight of which nothing was sent: its queries have
// no part in the worker's end. It is kept until Stop, since now it would be handed to
// this worker again. A batch of which a part was sent may be too large for the worker's
// memory, and is treated like those that were computed.
func (w *worker) keepUnsent(id uint64) {
	if b := w.claim(id); b != nil {
		w.mu.Lock()
		w.unsent = append(w.unsent, b)
		w.mu.Unlock()
	}
}

// Recall implements serving.TakesAhead. While a batch is being written it does
// nothing: a large one is not written before the worker reads it.
func (w *worker) Recall(*callBatch) {
	if !w.writing.TryLock() {
		return
	}
	var back []*callBatch
	if !w.over {
		back = w.notBegun()
	}
	w.writing.Unlock()
	for _, b := range back {
		b.Return() // which may hand another batch to this worker
	}
}

// Cancel implements serving.Cancels.
func (w *worker) Cancel(id uint64) {
	w.mu.Lock()
	b := w.inFlight[id]
	ahead := b != nil && b.Ahead
	w.mu.Unlock()
	if b == nil {
		return
	}
	w.cancels.tell(id)
	if ahead { // it may not have begun
		w.Recall(b)
	}
}

// notBegun takes the batches out of flight that were sent ahead and that the
// worker has not begun. writing is held.
func (w *worker) notBegun() (batches []*callBatch) {
	for _, id := range w.claims.withdraw() {
		if b := w.claim(id); b != nil {
			w.arena.answered(id) // the worker never looked at it
			batches = append(batches, b)
		}
	}
	return batches
}

// claim takes a batch out of flight; nil if it is not in flight.
func (w *worker) claim(id uint64) *callBatch {
	w.mu.Lock()
	defer w.mu.Unlock()
	b := w.inFlight[id]
	delete(w.inFlight, id)
	return b
}

// run reads answers until the worker ends, and finds out why it did.
func (w *worker) run() {
	defer close(w.ended)
	gone := make(chan error, 1)
	waited := make(chan struct{})
	defer func() { <-waited }()
	go func() { // ends with the process, which is gone when run returns
		defer close(waited)
		gone <- w.cgroup.ended(w.cmd.Wait())
		// A grandchild may hold the socket open: give what the worker wrote
		// before it died a moment to be read, then stop reading.
		_ = w.conn.SetReadDeadline(time.Now().Add(time.Second))
		w.cgroup.remove()
	}()
	reading := w.read()
	w.mu.Lock()
	stopping := w.stopping
	w.mu.Unlock()
	if !stopping {
		w.kill() // it may have closed the socket and live on
	}
	exit := <-gone
	w.conn.Close()
	if stopping {
		return
	}
	w.err = w.died(exit, reading)
	close(w.exited)
}

func (w *worker) died(exit, reading error) error {
	how := ending(exit)
	how += w.had()
	if !errors.Is(reading, io.EOF) {
		how += "; " + reading.Error()
	}
	return serving.Errorf(serving.WorkerDied, "backend %q: replica %d (pid %d) died: %s", w.backend, w.index, w.PID(), how)
}

// had tells how large the batches are that the worker takes with it.
func (w *worker) had() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var sizes []string
	for _, id := range slices.Sorted(maps.Keys(w.inFlight)) {
		sizes = append(sizes, strconv.Itoa(len(w.inFlight[id].Queries)))
	}
	if sizes == nil {
		return "; it was idle"
	}
	const shown = 8
	if len(sizes) > shown {
		sizes = append(sizes[:shown], "…")
	}
	return "; it had batches of " + strings.Join(sizes, ", ") + " queries"
}

// Diagnosis implements serving.Diagnosed: the last lines that the worker wrote.
func (w *worker) Diagnosis() string { return w.stderr.last() }

// read answers batches from the worker's frames until the socket ends.
func (w *worker) read() error {
	in := newReader(w.conn)
	for {
		kind, body, err := wire.Read(in)
		if err != nil {
			return err
		}
		if err := w.take(kind, body); err != nil {
			return fmt.Errorf("the worker broke the protocol: %w", err)
		}
	}
}

// take does what a frame from the worker is about.
func (w *worker) take(kind wire.Kind, body []byte) error {
	switch kind {
	case wire.Result:
		return w.result(body)
	case wire.Answers:
		return w.answers(body)
	case wire.Error:
		return w.raised(body)
	case wire.Shared:
		return w.shared(body)
	case wire.Keep:
		return onID(body, w.arena.keep)
	case wire.Free:
		return onID(body, w.arena.letGo)
	case wire.Pong:
		w.pong()
		return nil
	default:
		return fmt.Errorf("unexpected frame of kind %d", kind)
	}
}

// onID does something with the batch id that is a frame's body.
func onID(body []byte, do func(id uint64) error) error {
	if len(body) != 8 {
		return fmt.Errorf("a batch id of %d bytes", len(body))
	}
	return do(binary.LittleEndian.Uint64(body))
}

// shared takes an answer that lies in shared memory.
func (w *worker) shared(body []byte) error {
	if len(body) != 16 {
		return fmt.Errorf("SHARED frame of %d bytes", len(body))
	}
	frame, err := w.arena.answer(binary.LittleEndian.Uint64(body), binary.LittleEndian.Uint64(body[8:]))
	if err != nil {
		return err
	}
	switch kind := wire.Kind(frame[0]); kind {
	case wire.Answers:
		return w.answers(frame[1:]) // written out before the region is another's
	case wire.Result, wire.Error:
		return w.take(kind, slices.Clone(frame[1:])) // which the answers refer to
	default:
		return fmt.Errorf("unexpected frame of kind %d in shared memory", kind)
	}
}

// result answers a batch from a RESULT frame.
func (w *worker) result(body []byte) error {
	r, err := parseResult(body)
	if err != nil {
		return err
	}
	b := w.claim(r.id)
	if b == nil {
		return fmt.Errorf("answer to batch %d, which is not in flight", r.id)
	}
	defer w.arena.answered(r.id)
	w.answer.learn(len(body), len(b.Queries))
	if r.count() != len(b.Queries) {
		b.Finish(nil, &batch.CountError{Name: w.backend, Expected: len(b.Queries), Got: r.count()})
		return nil
	}
	for i, q := range b.Queries {
		q.Out, q.Err = r.answer(i, w.backend)
	}
	b.Complete()
	return nil
}

// raised fails a batch from an ERROR frame.
func (w *worker) raised(body []byte) error {
	id, failure, err := parseError(body, w.backend)
	if err != nil {
		return err
	}
	b := w.claim(id)
	if b == nil {
		return fmt.Errorf("error for batch %d, which is not in flight", id)
	}
	defer w.arena.answered(id)
	b.Finish(nil, failure)
	return nil
}

// Stop implements serving.Instance: end of file asks the worker to finish what
// it has and exit.
func (w *worker) Stop(ctx context.Context) error {
	w.mu.Lock()
	w.stopping = true
	w.mu.Unlock()
	var err, cut error
	if w.conn.CloseWrite() != nil {
		w.kill() // the socket is gone, so it cannot be asked
	}
	select {
	case <-w.ended:
	case <-ctx.Done():
		w.kill()
		<-w.ended
		cut = context.Cause(ctx)
		err = fmt.Errorf("backend %q: replica %d (pid %d) had to be killed: %w", w.backend, w.index, w.PID(), cut)
	}
	w.failRest(cut)
	return err
}

// failRest ends the batches that will not be answered any more; those that were
// not begun go back to the queue. It waits for one that is being written: its
// queries are its callers' again once it failed. Where the server's own word cut
// the worker off, that is what they are told.
func (w *worker) failRest(cut error) {
	var err error = serving.Errorf(serving.WorkerDied, "backend %q: replica %d (pid %d) was stopped before it answered", w.backend, w.index, w.PID())
	if own, ok := errors.AsType[*serving.Error](cut); ok {
		err = own
	}
	select {
	case <-w.exited:
		err = w.err
	default:
	}
	w.mu.Lock()
	verdict, guilty := w.verdict, w.guilty
	w.mu.Unlock()
	if verdict != nil {
		err = serving.Errorf(serving.WorkerDied, "the replica was replaced while it computed this: %v", verdict)
	}
	w.writing.Lock()
	w.over = true
	back := w.notBegun()
	_ = w.claims.close() // the process is gone, nobody else has the pipes
	_ = w.cancels.close()
	w.mu.Lock()
	back, w.unsent = append(back, w.unsent...), nil
	rest := w.inFlight
	w.inFlight = make(map[uint64]*callBatch)
	w.mu.Unlock()
	w.writing.Unlock()
	_ = w.arena.close() // likewise
	for _, b := range back {
		b.Return()
	}
	for id, b := range rest {
		if id == guilty { // it was being written when it should have been failed
			b.Interrupted(verdict)
		} else {
			b.Lost(err)
		}
	}
}
