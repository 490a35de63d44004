package serving

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/shoalserve/shoal/batch"
)

// Model is what a [Pool] runs.
type Model[In, Out any] struct {
	// Kind is the language: "go" or "python".
	Kind    string
	Runtime Runtime[In, Out]
	// Key, Cost, Size, Split and Join are those of [batch.Options].
	Key   func(In) string
	Cost  func(In) int
	Size  func(In) int64
	Split func(in In, max int) []In
	Join  func([]Out) (Out, error)
	// WarmUp says what a new instance computes before it is put to work; nil:
	// nothing. c.WarmUp is not nil.
	WarmUp func(c Config, of Instance[In, Out]) []Rehearsal[In, Out]

	twice twice[In, Out] // nil: live queries cannot be verified
}

// Pool is a backend: one batcher, and the replicas that pull from it.
type Pool[In, Out any] struct {
	name    string
	kind    string
	batcher *batch.Batcher[In, Out]
	log     *slog.Logger
	batched bool // the model takes more than one query a call

	cost func(In) int // the model's Cost

	version atomic.Pointer[version[In, Out]]
	settled atomic.Pointer[version[In, Out]] // the last that all replicas ran

	config    atomic.Pointer[Config]
	newest    atomic.Pointer[Instance[In, Out]] // the last that was put to work
	refusals  refusals
	judgement judgement
	pardons   atomic.Uint64 // deaths for which a query was refused
	works     proof
	restarts  restartCounts // of all replicas, also of those that are gone
	stuck     atomic.Int64  // instances that were given up and are not gone

	observer Observer
	live     *live[In, Out]
	scaler   *scaler
	drained  context.CancelFunc // ends the scaler
	leaving  sync.WaitGroup     // of replicas that the scaler stops

	open  context.Context // ends when Close begins
	shut  context.CancelFunc
	grace context.Context // ends when a Close has no more time
	force context.CancelCauseFunc

	mu       sync.Mutex // held while the config or the set of replicas changes
	replicas []*replica[In, Out]
	previous *revision[In, Out] // what Roll replaced; nil: nothing yet

	statusMu sync.Mutex // guards shown, so that Status never waits for a change
	shown    []*replica[In, Out]
}

// Deps are what a pool is given by the server around it. All may be nil.
type Deps struct {
	Observer Observer
	Logger   *slog.Logger
	// Closed is called once nothing uses the model any more; not if NewPool fails.
	Closed func()
}

// NewPool starts a backend's replicas and returns when all are ready. If one
// cannot start, it stops the others and returns the *LoadError.
func NewPool[In, Out any](ctx context.Context, name string, model Model[In, Out], config Config, deps Deps) (*Pool[In, Out], error) {
	log := deps.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	p := &Pool[In, Out]{name: name, kind: model.Kind, cost: model.Cost, log: log.With("backend", name)}
	p.observer, p.scaler, p.live = deps.Observer, newScaler(), newLive(p, model.twice)
	p.version.Store(newVersion(model, deps.Closed))
	p.settled.Store(p.version.Load())
	p.open, p.shut = context.WithCancel(context.Background())
	p.grace, p.force = context.WithCancelCause(context.Background())
	first := p.indices(max(1, config.NumReplicas))
	instances, err := p.start(ctx, p.version.Load(), config, first)
	if err != nil {
		return nil, err
	}
	p.batched = instances[0].Batched()
	if err := p.checkBatchSize(config); err != nil {
		return nil, errors.Join(err, stopAll(ctx, instances))
	}
	config = config.withDefaults(p.batched)
	p.config.Store(&config)
	p.batcher = batch.New(batch.Options[In, Out]{
		Limits: config.limits(), Name: name,
		Key: model.Key, Cost: model.Cost, Size: model.Size, Split: model.Split, Join: model.Join,
		OnBatch: p.onBatch, OnStarved: p.starved,
	})
	p.mu.Lock()
	defer p.mu.Unlock()
	p.adopt(instances, first)
	scaling, drained := context.WithCancel(p.grace)
	p.drained = drained
	go p.scale(scaling) // ends when the pool is closed; Close waits for it
	return p, nil
}

// starved wakes the backend if it is asleep.
func (p *Pool[In, Out]) starved() {
	if p.scaler.sleeps() {
		signal(p.scaler.woken)
	}
}

func (p *Pool[In, Out]) onBatch(b *batch.Batch[In, Out]) {
	if o := p.observer; o != nil {
		o.Batch(len(b.Queries)+b.Again, b.Reason, b.Computed)
		for _, q := range b.Queries {
			o.Queued(q.Trip.Queued)
		}
	}
	if n := p.config.Load().VerifyOneIn; n > 0 && len(b.Queries) > 1 {
		p.live.sample(b, n)
	}
}

// start starts one instance of a version for each index, all at once, or none.
func (p *Pool[In, Out]) start(ctx context.Context, v *version[In, Out], config Config, indices []int) ([]Instance[In, Out], error) {
	instances := make([]Instance[In, Out], len(indices))
	errs := make([]error, len(indices))
	var starting sync.WaitGroup
	for i, index := range indices {
		starting.Go(func() {
			instances[i], errs[i] = p.launch(ctx, v, ReplicaSpec{Backend: p.name, Index: index, Config: config})
		})
	}
	starting.Wait()
	for _, err := range errs {
		if err != nil {
			// One failure tells what is wrong; replicas of one model fail alike.
			return nil, errors.Join(err, stopAll(ctx, instances))
		}
	}
	return instances, nil
}

func stopAll[In, Out any](ctx context.Context, instances []Instance[In, Out]) error {
	var errs []error
	for _, instance := range instances {
		if instance != nil {
			errs = append(errs, instance.Stop(ctx))
		}
	}
	return errors.Join(errs...)
}

func (p *Pool[In, Out]) checkBatchSize(c Config) error {
	if p.batched || c.MaxBatchSize <= 1 {
		return nil
	}
	return Errorf(InvalidArgument, "backend %q: max_batch_size is %d, but the model takes one query at a time; mark it with accept_batch, or give a batch function", p.name, c.MaxBatchSize)
}

// adopt puts started instances to work. mu is held.
func (p *Pool[In, Out]) adopt(instances []Instance[In, Out], indices []int) {
	for i, instance := range instances {
		r := newReplica(p, indices[i])
		p.replicas = append(p.replicas, r)
		attached := r.attach(instance)
		go r.supervise(instance, attached) // ends when the replica is stopped; stop waits for it
	}
	p.show()
}

func (p *Pool[In, Out]) show() {
	p.statusMu.Lock()
	p.shown = slices.SortedFunc(slices.Values(p.replicas), func(a, b *replica[In, Out]) int {
		return cmp.Compare(a.index, b.index)
	})
	p.statusMu.Unlock()
	p.judge(nil)
}

// indices returns the n smallest numbers that no replica has. mu is held.
func (p *Pool[In, Out]) indices(n int) []int {
	var free []int
	for i := 0; len(free) < n; i++ {
		if !slices.ContainsFunc(p.replicas, func(r *replica[In, Out]) bool { return r.index == i }) {
			free = append(free, i)
		}
	}
	return free
}

// Name implements [Backend].
func (p *Pool[In, Out]) Name() string { return p.name }

// Kind implements [Backend].
func (p *Pool[In, Out]) Kind() string { return p.kind }

// Config implements [Backend].
func (p *Pool[In, Out]) Config() Config { return *p.config.Load() }

// timeout is the config's, without a copy of all of it.
func (p *Pool[In, Out]) timeout() time.Duration { return time.Duration(p.config.Load().Timeout) }

// SubmitQuery admits a typed query, as [batch.Batcher.Submit] does.
func (p *Pool[In, Out]) SubmitQuery(q *batch.Query[In, Out]) error { return p.batcher.Submit(q) }

// WithdrawQuery takes a typed query back, as [batch.Batcher.Withdraw] does.
func (p *Pool[In, Out]) WithdrawQuery(q *batch.Query[In, Out]) bool { return p.batcher.Withdraw(q) }

// Do computes one typed query, as [batch.Batcher.DoFor] does; what the model
// returned as its error is a *ModelError.
func (p *Pool[In, Out]) Do(ctx context.Context, in In, caller string, priority int) (Out, error) {
	out, trip, err := p.batcher.DoFor(ctx, in, caller, priority)
	return out, ModelFailure(p.name, err, trip)
}

// Update implements [Backend]. New replicas start before old ones stop, so that
// queries always find one; if they cannot start, or ctx or the backend ends
// before they have, nothing changes.
func (p *Pool[In, Out]) Update(ctx context.Context, next Config) error {
	return p.change(next, func(next Config, n int) error {
		if surge := next.surge(n); surge < n && p.Config().needsRestart(next) {
			return p.roll(ctx, &revision[In, Out]{p.version.Load(), next}, n, surge)
		}
		return p.update(ctx, next, n)
	})
}

// change makes a change to a config, with which there are to be n replicas.
func (p *Pool[In, Out]) change(next Config, make func(next Config, n int) error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.open.Err() != nil {
		return p.draining()
	}
	if err := p.checkBatchSize(next); err != nil {
		return err
	}
	if err := make(next.withDefaults(p.batched), p.replicasFor(next)); err != nil {
		return err
	}
	p.scaler.stand(false, "", "") // an idle backend is awake again
	signal(p.scaler.changed)
	return nil
}

// update brings n replicas to the next config; those that cannot go on with it are
// replaced at once. mu is held.
func (p *Pool[In, Out]) update(ctx context.Context, next Config, n int) error {
	keep, surplus := p.keep(next, n)
	fresh := p.indices(n - len(keep))
	starting, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(p.open, cancel)()
	instances, err := p.start(starting, p.version.Load(), next, fresh)
	if err != nil {
		if p.open.Err() != nil {
			return p.draining()
		}
		return err
	}
	before := p.Config()
	p.config.Store(&next)
	p.batcher.Update(next.limits())
	p.replicas = keep
	for _, r := range keep {
		signal(r.changed)
	}
	p.adopt(instances, fresh)
	// The caller may leave, but what the old replicas accepted is to be finished.
	stop, cancel := context.WithTimeout(p.grace, max(before.stopTimeout(), next.stopTimeout()))
	defer cancel()
	return stopReplicas(stop, surplus)
}

func (p *Pool[In, Out]) draining() error {
	return fmt.Errorf("backend %q: %w", p.name, batch.ErrDraining)
}

// keep splits the replicas into those, at most n, that go on with the next config
// and those that are too many; if some must go, those that do not work are the first.
// mu is held.
func (p *Pool[In, Out]) keep(next Config, n int) (keep, surplus []*replica[In, Out]) {
	if p.Config().needsRestart(next) {
		return nil, p.replicas
	}
	keep = slices.Clone(p.replicas)
	slices.SortStableFunc(keep, func(a, b *replica[In, Out]) int {
		return cmp.Compare(a.rank(), b.rank())
	})
	n = min(len(keep), n)
	return keep[:n:n], keep[n:]
}

// stopTimeout is how long a replica that is not needed any more may take to finish its
// batches: as long as they may take, but a minute at least.
func (c Config) stopTimeout() time.Duration {
	return max(time.Minute, time.Duration(c.Timeout), time.Duration(c.BatchTimeout))
}

// Close implements [Backend].
func (p *Pool[In, Out]) Close(ctx context.Context) error {
	p.shut()
	defer context.AfterFunc(ctx, func() { p.force(context.Cause(ctx)) })()
	drained := p.batcher.Drain(ctx)
	p.live.close()
	p.drained()
	<-p.scaler.done
	p.mu.Lock()
	defer p.mu.Unlock()
	replicas := p.replicas
	p.replicas = nil
	err := errors.Join(drained, stopReplicas(ctx, replicas))
	p.leaving.Wait()
	p.version.Load().closed()
	if p.previous != nil {
		p.previous.version.closed()
	}
	return err
}

func stopReplicas[In, Out any](ctx context.Context, replicas []*replica[In, Out]) error {
	errs := make([]error, len(replicas))
	var stopping sync.WaitGroup
	for i, r := range replicas {
		stopping.Go(func() { errs[i] = r.stop(ctx) })
	}
	stopping.Wait()
	return errors.Join(errs...)
}

// Status implements [Backend].
func (p *Pool[In, Out]) Status() BackendStatus {
	counts := p.batcher.Stats()
	s := BackendStatus{
		Name: p.name, Kind: p.kind, State: StateStarting, Config: p.Config(), Replicas: []ReplicaStatus{},
		Queued: counts.Queued, Running: counts.Running, Stats: newStats(counts), Stuck: int(p.stuck.Load()),
		Verified: p.live.status(),
	}
	s.RestartReasons, s.Restarts = p.restarts.byReason()
	p.statusMu.Lock()
	shown := p.shown
	p.statusMu.Unlock()
	for _, r := range shown {
		s.Replicas = append(s.Replicas, r.status())
	}
	s.State = together(s.Replicas)
	p.scaler.show(&s)
	if p.open.Err() != nil {
		s.State = StateDraining
	}
	return s
}

func newStats(s batch.Stats) Stats {
	stats := Stats{
		Admitted: s.Admitted, Answered: s.Answered, Refused: s.Refused, Dropped: s.Dropped, Failed: s.Failed,
		Batches: s.Batches, Ahead: s.Ahead, Returned: s.Returned, BatchSizes: s.Sizes, Reasons: make(map[string]uint64),
		Refusals: make(map[string]uint64), Evicted: s.Evicted, Late: s.Late,
		Isolated: s.Isolated, Poison: s.Poison, Wasted: s.Wasted.Seconds(),
	}
	queries := uint64(0)
	for size, n := range s.Sizes {
		queries += uint64(size) * n
	}
	if s.Batches > 0 {
		stats.MeanBatch = float64(queries) / float64(s.Batches)
	}
	for _, reason := range batch.Reasons() {
		if n := s.Reasons[reason]; n > 0 {
			stats.Reasons[reason.String()] = n
		}
	}
	for _, refusal := range batch.Refusals() {
		if n := s.Refusals[refusal]; n > 0 {
			stats.Refusals[refusal.String()] = n
		}
	}
	return stats
}
