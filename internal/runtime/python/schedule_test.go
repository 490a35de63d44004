package python

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/shoalserve/shoal/batch"
	"github.com/shoalserve/shoal/internal/serving"
)

// A schedule is one life of a backend with faulty workers: its config, the queries
// that it gets and what goes wrong all come from one seed. Afterwards every query
// is compared with what the reference says that its caller must get.
type schedule struct {
	seed   uint64
	dice   *rand.Rand
	plan   plan
	config serving.Config
	// hurry closes the backend before all is done, so that what hangs fails. Else what
	// hangs is ended by batch_timeout.
	hurry bool
	// change updates the config while queries run.
	change bool
	plans  []*scheduled
}

// scheduled is a query of a schedule and what came of it.
type scheduled struct {
	call     *serving.Call
	id       int
	kind     kind
	want     string
	wait     time.Duration // before it is sent
	leave    time.Duration // after which its caller leaves; 0: never
	withdraw bool          // by Withdraw and not by the context

	refused   error
	withdrawn bool
	left      bool
	answers   atomic.Int32
	done      chan struct{}
}

// batchTimeout is long enough that a batch which does not hang is done by then, on a
// busy machine too.
const batchTimeout = 10 * time.Second

func newSchedule(seed uint64) *schedule {
	s := &schedule{seed: seed, dice: rand.New(rand.NewPCG(seed, 1))}
	pick := func(options ...int) int { return options[s.dice.IntN(len(options))] }
	s.plan = plan{
		Seed: seed, Faults: float64(pick(0, 10, 30, 60)) / 100, Fatal: float64(pick(0, 20, 50, 80)) / 100,
		Init: float64(pick(0, 0, 30)) / 100, Lives: pick(1, 2, 4),
	}
	s.hurry = s.dice.IntN(8) == 0
	s.change = s.dice.IntN(4) == 0
	s.config = serving.Config{
		MaxBatchSize: pick(1, 2, 3, 8, 16), NumReplicas: pick(1, 1, 2, 3), MaxConcurrentBatches: pick(1, 1, 1, 2),
		BatchWaitTimeout: serving.Duration(pick(0, 0, 1_000_000)), MaxQueued: pick(15, 100, 1000),
	}
	if s.plan.Hangs = s.hurry || s.dice.IntN(10) == 0; s.plan.Hangs && !s.hurry {
		s.config.BatchTimeout = serving.Duration(batchTimeout)
	}
	trouble := s.dice.IntN(3) // what share of queries does harm
	for id := range pick(1, 5, 10, 20, 20, 50) {
		s.plans = append(s.plans, s.query(id, trouble))
	}
	return s
}

// query makes a query; trouble is 0 where all are good.
func (s *schedule) query(id, trouble int) *scheduled {
	q := &scheduled{id: id, kind: good, done: make(chan struct{})}
	if trouble > 0 && s.dice.IntN(20/trouble) == 0 {
		q.kind = rowKinds[1+s.dice.IntN(2)]
		if trouble == 2 && s.plan.Lives > 1 && s.dice.IntN(4) == 0 {
			q.kind = kills
		}
	}
	switch s.dice.IntN(3) {
	case 0:
		q.row(s.dice)
	default:
		q.asIs(s.dice)
	}
	if s.dice.IntN(3) == 0 {
		q.wait = time.Duration(s.dice.IntN(3_000)) * time.Microsecond
	}
	if s.dice.IntN(10) == 0 {
		q.leave = time.Duration(1+s.dice.IntN(3_000)) * time.Microsecond
		q.withdraw = s.dice.IntN(2) == 0
	}
	q.call.Done = func(*serving.Call) {
		if q.answers.Add(1) == 1 {
			close(q.done)
		}
	}
	return q
}

// asIs is a query that the worker gets as it is, now and then a large one.
func (q *scheduled) asIs(dice *rand.Rand) {
	method := []string{"", "other"}[dice.IntN(2)]
	origin := []batch.Origin{batch.Web, batch.API}[dice.IntN(2)]
	payload := fmt.Appendf(nil, "%s %d %d %s ", q.kind, q.id, originCode(origin), method)
	if dice.IntN(8) == 0 {
		payload = append(payload, bytes.Repeat([]byte{byte('a' + q.id%26)}, dice.IntN(120_000))...)
	}
	q.want = string(answerTo(payload))
	q.call = &serving.Call{Origin: origin, Method: method}
	if origin == batch.Web {
		q.call.Request = &serving.Request{Head: []byte{}, Body: payload} // no head: the worker looks at none
		return
	}
	q.call.Args = serving.Args{Payload: payload}
}

// row is a query of arrays, now and then a large one.
func (q *scheduled) row(dice *rand.Rand) {
	width := 2 + dice.IntN(2)
	if dice.IntN(12) == 0 {
		width = 10_000
	}
	row := make([]int64, width)
	for i := range row {
		row[i] = int64(1000*q.id + i)
	}
	row[0], row[1] = int64(q.id), int64(slices.Index(rowKinds, q.kind))
	text := rowText(row)
	q.want = string(rowJSON(row))
	q.call = &serving.Call{Method: "rows", Origin: []batch.Origin{batch.Web, batch.API}[dice.IntN(2)]}
	if q.call.Origin == batch.Web {
		q.call.Request = &serving.Request{Header: http.Header{"Content-Type": {"application/json"}}, Body: text}
		return
	}
	q.call.Args = serving.Args{Head: []byte(`{"encoding":"json"}`), Payload: []byte(`{"data":` + string(text) + `}`)}
}

// play sends the queries, leaves, changes, and closes the backend.
func (s *schedule) play(b serving.Backend) error {
	var sending sync.WaitGroup
	for _, q := range s.plans {
		q.call.Backend = b
		sending.Go(func() { q.send(b) })
	}
	var updated, closed error
	if s.change {
		next := b.Config()
		next.NumReplicas = 1 + s.dice.IntN(3)
		next.MaxConcurrentBatches = 1 + s.dice.IntN(2) // which restarts all, if it is another
		sending.Go(func() { updated = b.Update(context.Background(), next) })
	}
	patience := 3 * time.Minute
	if s.hurry {
		patience = time.Duration(s.dice.IntN(100)) * time.Millisecond
		time.Sleep(time.Duration(s.dice.IntN(20)) * time.Millisecond)
	} else {
		sending.Wait()
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	closed = b.Close(ctx)
	sending.Wait()
	switch {
	case s.hurry:
		return nil // which is in nobody's interest
	case s.plan.Init+s.plan.Fatal > 0:
		updated = nil // a worker may not have started
	}
	return errors.Join(updated, closed)
}

func (q *scheduled) send(b serving.Backend) {
	time.Sleep(q.wait)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	q.call.Context = ctx
	if q.refused = b.Submit(q.call); q.refused != nil {
		return
	}
	if q.leave > 0 {
		select {
		case <-q.done:
			return
		case <-time.After(q.leave):
		}
		q.left = true
		if q.withdraw {
			q.withdrawn = q.call.Withdraw()
		} else {
			cancel()
		}
	}
	if q.withdrawn {
		return
	}
	select {
	case <-q.done:
	case <-time.After(3 * time.Minute): // judge will miss the answer
	}
}

// reference says what callers must get, given what the workers did.
type reference struct {
	s      *schedule
	last   map[int]deed // of each query
	dooms  int          // workers that had to be given up for what they did with a batch
	broken []string     // what workers were sent and should not have been
}

// dooming are the faults after which a worker must be given up, hanging those that
// only a limit on a batch's time ends.
var dooming, hanging = func() (dooming, hanging map[string]bool) {
	dooming, hanging = map[string]bool{"killed by a query": true}, make(map[string]bool)
	for _, f := range hangs {
		dooming[f.name], hanging[f.name] = true, true
	}
	for _, f := range fatalFaults {
		dooming[f.name] = true
	}
	return dooming, hanging
}()

func newReference(s *schedule, deeds []deed) *reference {
	r := &reference{s: s, last: make(map[int]deed)}
	for _, d := range deeds {
		if strings.HasPrefix(d.Fault, "unreadable") {
			r.broken = append(r.broken, d.Fault)
		}
		if dooming[d.Fault] {
			r.dooms++
		}
		for _, id := range d.Queries {
			r.last[id] = d
		}
	}
	return r
}

// inARow is how many failures in a row make a backend refuse its queries.
const inARow = 5

// looping reports whether enough workers failed, or did not start, for that.
func (r *reference) looping() bool {
	failures := r.dooms
	if r.s.plan.Init > 0 {
		failures += r.s.plan.Lives
	}
	return failures >= inARow
}

// spared reports whether nothing goes wrong but by so few queries that all innocent
// ones must be answered: workers have no faults of their own, one query may end them,
// and another may raise.
func (r *reference) spared() bool {
	harmful, killers := 0, 0
	for _, q := range r.s.plans {
		switch q.kind {
		case kills:
			killers++
			fallthrough
		case raises:
			harmful++
		}
	}
	return r.s.plan.Faults == 0 && r.s.plan.Init == 0 && !r.s.hurry && !r.s.change &&
		r.s.config.MaxConcurrentBatches == 1 && killers <= 1 && harmful <= 2
}

// judge returns what is wrong with what came of a query; nil if nothing is.
func (r *reference) judge(q *scheduled) error {
	n := q.answers.Load()
	switch {
	case q.refused != nil && n == 0:
		return r.refusal(q.refused)
	case q.withdrawn && n == 0:
		return nil
	case n != 1 || q.refused != nil || q.withdrawn:
		return fmt.Errorf("%d answers (refused: %v, withdrawn: %v)", n, q.refused, q.withdrawn)
	case q.call.Err == nil:
		return r.answer(q)
	}
	return r.failure(q)
}

func (r *reference) refusal(err error) error {
	switch code := serving.Describe(err).Code; {
	case code == serving.QueueFull && r.s.config.MaxQueued < len(r.s.plans):
		return nil
	case code == serving.Draining && r.s.hurry, code == serving.Unavailable && r.looping():
		return nil
	}
	return fmt.Errorf("refused: %w", err)
}

func (r *reference) answer(q *scheduled) error {
	if got := string(q.call.Response.Body); got != q.want {
		return fmt.Errorf("answered with %.60q, not %.60q", got, q.want)
	}
	if q.kind != good {
		return fmt.Errorf("a query that %s got an answer", q.kind)
	}
	if size := q.call.Trip.BatchSize; size < 1 || size > r.s.config.MaxBatchSize {
		return fmt.Errorf("its batch had %d queries", size)
	}
	return nil
}

// failure judges an error: the last that a worker did with the query must be the
// reason, or its caller left, or the workers were given up, or the backend closed.
func (r *reference) failure(q *scheduled) error {
	last, ran := r.last[q.id]
	code := string(serving.Describe(q.call.Err).Code)
	if innocent := q.kind == good && !q.left && code != string(serving.QueueFull); innocent && r.spared() {
		return fmt.Errorf("an innocent query failed: %w", q.call.Err)
	}
	switch code {
	case string(serving.Canceled), string(serving.DeadlineExceeded):
		if q.left { // also by a Withdraw that came too late, if the query was not computed for it
			return nil
		}
	case string(serving.WorkerDied):
		if r.s.hurry || r.mayLose(q) {
			return nil
		}
	case string(serving.Unavailable): // of a crash loop
		if r.s.hurry || r.looping() {
			return nil
		}
	case string(serving.BatchTimeout):
		if r.s.config.BatchTimeout > 0 && hanging[last.Fault] {
			return nil
		}
	case string(serving.Draining):
		if r.s.hurry {
			return nil
		}
	case "Injected":
		own := fmt.Sprintf("query %d failed", q.id)
		if m, ok := errors.AsType[*serving.ModelError](q.call.Err); ok && m.Message == own && slices.Contains(last.Guilty, q.id) {
			return nil
		}
		fallthrough
	default:
		if ran && codes[last.Fault] == code {
			return nil
		}
	}
	return fmt.Errorf("failed after a worker did %q: %w", last.Fault, q.call.Err)
}

// fewestDeaths is how many workers the search in the smallest batch may cost.
const fewestDeaths = 5

// mayLose reports whether a query may fail because workers ended: two did with it, the
// last time alone; or its batch took more of them than may be spent on one; or its
// caller has left, so that it is not tried again.
func (r *reference) mayLose(q *scheduled) bool {
	if refused, ok := errors.AsType[*batch.LostError](q.call.Err); ok {
		return refused.Replicas >= 2 && q.call.Trip.BatchSize == 1 && q.call.Trip.Attempts >= 2 && r.dooms >= 2
	}
	return q.left || r.dooms >= fewestDeaths
}

// verdict judges all queries.
func (s *schedule) verdict(deeds []deed) error {
	r := newReference(s, deeds)
	var errs []error
	for _, broken := range r.broken {
		errs = append(errs, errors.New(broken))
	}
	for _, q := range s.plans {
		if err := r.judge(q); err != nil {
			errs = append(errs, fmt.Errorf("query %d (%s): %w", q.id, q.kind, err))
		}
	}
	return errors.Join(errs...)
}

// seeds are the schedules to play: number of them, or as many as SHOAL_SCHEDULES
// says, or the one of SHOAL_SEED.
func seeds(t *testing.T, number int) []uint64 {
	if one := os.Getenv("SHOAL_SEED"); one != "" {
		seed, err := strconv.ParseUint(one, 10, 64)
		if err != nil {
			t.Fatalf("SHOAL_SEED: %v", err)
		}
		return []uint64{seed}
	}
	if n, err := strconv.Atoi(os.Getenv("SHOAL_SCHEDULES")); err == nil {
		number = n
	}
	all := make([]uint64, number)
	for i := range all {
		all[i] = uint64(i)
	}
	return all
}

// total counts what schedules were made of.
type total struct {
	mu                                           sync.Mutex
	queries, right, failed, refused, left, doing int
	faults                                       map[string]int
	innocent                                     map[serving.Code]int // innocent queries that failed, by how
}

func (n *total) add(s *schedule, deeds []deed) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.queries += len(s.plans)
	n.doing += len(deeds)
	for _, q := range s.plans {
		switch {
		case q.refused != nil:
			n.refused++
		case q.left:
			n.left++
		case q.call.Err != nil:
			n.failed++
			if q.kind == good {
				n.innocent[serving.Describe(q.call.Err).Code]++
			}
		default:
			n.right++
		}
	}
	for _, d := range deeds {
		n.faults[d.Fault]++
	}
}

// playAll plays the schedules of seeds, several at a time.
func playAll(t *testing.T, seeds []uint64, atATime int, play func(*schedule) ([]deed, error)) {
	free := make(chan struct{}, atATime)
	n := total{faults: make(map[string]int), innocent: make(map[serving.Code]int)}
	var playing sync.WaitGroup
	for _, seed := range seeds {
		free <- struct{}{}
		playing.Go(func() {
			defer func() { <-free }()
			s := newSchedule(seed)
			deeds, err := play(s)
			if err = errors.Join(err, s.verdict(deeds)); err != nil {
				t.Errorf("seed %d (repeat it with SHOAL_SEED=%d): %v\n%+v", seed, seed, err, s.plan)
			}
			n.add(s, deeds)
		})
	}
	playing.Wait()
	t.Logf("%d schedules: %d batches, %d queries: %d answered right, %d failed as they must, %d refused, %d callers left",
		len(seeds), n.doing, n.queries, n.right, n.failed, n.refused, n.left)
	t.Logf("what workers did: %v", n.faults)
	t.Logf("what innocent queries failed with: %v", n.innocent)
}

// TestWhateverAWorkerDoesEachCallerGetsWhatIsItsOwn plays thousands of schedules with
// workers that are late, miscount, garble, flood, hang, die and lie.
func TestWhateverAWorkerDoesEachCallerGetsWhatIsItsOwn(t *testing.T) {
	before := descriptors(t)
	playAll(t, seeds(t, 300), 32, func(s *schedule) ([]deed, error) {
		r := newFaultyRuntime(s.plan)
		b, err := r.pool(t.Context(), s.config)
		if err != nil {
			return nil, s.mayNotStart(err)
		}
		err = s.play(b)
		r.over.Wait()
		return r.deeds, err
	})
	leaked(t, before)
}

// mayNotStart excuses a backend one of whose workers did not start, as planned.
func (s *schedule) mayNotStart(err error) error {
	if _, ok := errors.AsType[*serving.LoadError](err); ok && s.plan.Init > 0 && s.config.NumReplicas > 1 {
		s.plans = nil
		return nil
	}
	return err
}

// TestRealProcessesThatMisbehave plays schedules with workers that are processes.
func TestRealProcessesThatMisbehave(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	before := descriptors(t)
	playAll(t, seeds(t, 16), 8, func(s *schedule) ([]deed, error) {
		dir := filepath.Join(t.TempDir(), strconv.FormatUint(s.seed, 10))
		text, _ := json.Marshal(s.plan)
		if err := errors.Join(os.Mkdir(dir, 0o700), os.WriteFile(dir+"/plan", text, 0o600)); err != nil {
			return nil, err
		}
		s.config.Env = map[string]string{faultyDir: dir}
		b, err := NewDeployer(Options{Interpreter: self}).Backend(t.Context(), "model:v1", file("unused"), s.config)
		if err != nil {
			return nil, s.mayNotStart(err)
		}
		err = s.play(b)
		deeds, reading := journal(dir + "/journal")
		return deeds, errors.Join(err, reading)
	})
	leaked(t, before)
}

// journal reads what processes wrote down.
func journal(path string) (deeds []deed, err error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil // none got a batch
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var d deed
		if err := json.Unmarshal(lines.Bytes(), &d); err != nil {
			return nil, fmt.Errorf("the journal %s: %w", path, err)
		}
		deeds = append(deeds, d)
	}
	return deeds, nil
}

// descriptors counts this process's open files.
func descriptors(t *testing.T) int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skipf("descriptors cannot be counted here: %v", err)
	}
	return len(entries)
}

// leaked fails the test when descriptors stay open; a few belong to the Go runtime.
func leaked(t *testing.T, before int) {
	for range 100 {
		if descriptors(t) <= before+4 {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Errorf("%d descriptors are open, %d were before", descriptors(t), before)
}
