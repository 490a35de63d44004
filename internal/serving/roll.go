package serving

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
)

// version is what the replicas of a pool run.
type version[In, Out any] struct {
	runtime  Runtime[In, Out]
	rehearse func(Config, Instance[In, Out]) []Rehearsal[In, Out] // the model's WarmUp
	closed   func()                                               // to be called when nothing uses it any more
}

func newVersion[In, Out any](m Model[In, Out], closed func()) *version[In, Out] {
	if closed == nil {
		closed = func() {}
	}
	return &version[In, Out]{m.Runtime, m.WarmUp, sync.OnceFunc(closed)}
}

// Version is another one after each [Pool.Roll], once all replicas run it.
func (p *Pool[In, Out]) Version() any { return p.settled.Load() }

// revision is a version and the config that it runs with.
type revision[In, Out any] struct {
	version *version[In, Out]
	config  Config
}

// revision is what replicas are started with now.
func (p *Pool[In, Out]) revision() *revision[In, Out] {
	return &revision[In, Out]{p.version.Load(), p.Config()}
}

// outdated reports whether what runs with the revision must be replaced for another.
func (r *revision[In, Out]) outdated(now *revision[In, Out]) bool {
	return r.version != now.version || r.config.needsRestart(now.config)
}

// surge is how many of n new replicas may run beside the old ones.
func (c Config) surge(n int) int {
	if c.MaxSurge == nil {
		return n
	}
	return min(n, *c.MaxSurge)
}

// Taker is an [Instance] that tells what queries it takes.
type Taker interface {
	// Takes is the same text for two instances that take the same queries.
	Takes() string
}

func takes[In, Out any](of Instance[In, Out]) string {
	if t, ok := of.(Taker); ok {
		return t.Takes()
	}
	return ""
}

// Rolls reports whether a config has another version take over replica by replica,
// with [Pool.Roll].
func (p *Pool[In, Out]) Rolls(c Config) bool {
	n := p.replicasFor(c)
	return c.surge(n) < n
}

// replicasFor is how many replicas there are to be with a config.
func (p *Pool[In, Out]) replicasFor(c Config) int {
	least, most := c.withDefaults(p.batched).bounds()
	replicas, _ := p.size()
	return max(least, min(most, replicas))
}

// Roll has another version of the model take over replica by replica, of which
// there are never more than config's max_surge beside those that there are to be. Both answer what
// waits until the old one is gone. The new version must take the same queries: key, cost and size stay
// the first one's. If one of its replicas cannot start, it is a *LoadError, and the old version is started again
// where it was stopped. closed is called once nothing uses the new version any more, but
// not if Roll fails.
func (p *Pool[In, Out]) Roll(ctx context.Context, model Model[In, Out], config Config, closed func()) error {
	return p.change(config, func(config Config, n int) error {
		from := p.revision()
		if err := p.roll(ctx, &revision[In, Out]{newVersion(model, closed), config}, n, config.surge(n)); err != nil {
			return err
		}
		if p.previous != nil {
			p.previous.version.closed()
		}
		p.previous = from
		return nil
	})
}

// Revert takes the last Roll back, in the same way.
func (p *Pool[In, Out]) Revert(ctx context.Context) error {
	p.mu.Lock()
	to := p.previous
	p.mu.Unlock()
	if to == nil {
		return nil
	}
	return p.change(to.config, func(config Config, n int) error {
		rolled := p.version.Load()
		if err := p.roll(ctx, &revision[In, Out]{to.version, config}, n, p.Config().surge(n)); err != nil {
			return err
		}
		p.previous = nil
		rolled.closed()
		return nil
	})
}

// rolling is a change of all replicas, step by step. The pool's mu is held.
type rolling[In, Out any] struct {
	pool       *Pool[In, Out]
	from, to   *revision[In, Out]
	n          int                 // how many there are to be
	most       int                 // how many may run at a time
	before     int                 // how many there were
	old, fresh []*replica[In, Out] // those that are there
	late       []error             // of old ones that did not end well
}

// roll replaces all replicas by n of a revision. That an old one did not end well is
// no error: what it had is accounted for. mu is held.
func (p *Pool[In, Out]) roll(ctx context.Context, to *revision[In, Out], n, surge int) error {
	r := &rolling[In, Out]{
		pool: p, from: p.revision(), to: to, n: n,
		old: slices.Clone(p.replicas), before: len(p.replicas),
	}
	r.most = max(r.before, n) + surge
	slices.SortStableFunc(r.old, func(a, b *replica[In, Out]) int { return cmp.Compare(b.rank(), a.rank()) }) // those that do not work go first
	if err := r.do(ctx); err != nil {
		if p.open.Err() != nil {
			return p.draining()
		}
		return err
	}
	p.settled.Store(p.version.Load())
	if err := errors.Join(r.late...); err != nil {
		p.log.Warn("a replica that was replaced did not end well", "error", err)
	}
	return nil
}

// do goes through all steps, until ctx or the pool ends. What was done is undone if one fails.
func (r *rolling[In, Out]) do(ctx context.Context) error {
	starting, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(r.pool.open, cancel)()
	err := r.run(starting)
	if err != nil {
		r.back()
	}
	return err
}

func (r *rolling[In, Out]) run(ctx context.Context) error {
	for len(r.fresh) < r.n {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		room := r.most - len(r.old) - len(r.fresh)
		if room <= 0 {
			r.retire(1) // what waits is held in the queue if it was the last
			continue
		}
		if err := r.start(ctx, min(room, r.n-len(r.fresh))); err != nil {
			return err
		}
		r.retire(len(r.old) + len(r.fresh) - r.n)
	}
	r.retire(len(r.old))
	return nil
}

// start adds new replicas. Once the first are there, the new revision is the pool's:
// also an old replica that dies comes back as a new one.
func (r *rolling[In, Out]) start(ctx context.Context, n int) error {
	p := r.pool
	indices := p.indices(n)
	instances, err := p.start(ctx, r.to.version, r.to.config, indices)
	if err != nil {
		return err
	}
	if len(r.fresh) == 0 {
		if err := r.fits(instances[0]); err != nil {
			return errors.Join(err, stopAll(ctx, instances))
		}
		p.put(r.to)
	}
	had := len(p.replicas)
	p.adopt(instances, indices)
	r.fresh = append(r.fresh, p.replicas[had:]...)
	return nil
}

// fits refuses a version that takes other queries than those that wait.
func (r *rolling[In, Out]) fits(instance Instance[In, Out]) error {
	if newest := *r.pool.newest.Load(); instance.Batched() != r.pool.batched || takes(instance) != takes(newest) {
		return Errorf(InvalidArgument, "backend %q: with max_surge a new version must take the same queries as the old one, and its arrays or its accept_batch differ; "+
			"leave max_surge out, or deploy it under another name and move the traffic", r.pool.name)
	}
	return nil
}

// retire stops up to n of the old replicas, once they have finished their batches.
func (r *rolling[In, Out]) retire(n int) {
	if n = min(n, len(r.old)); n > 0 {
		r.stop(r.old[:n])
		r.old = r.old[n:]
	}
}

func (r *rolling[In, Out]) stop(replicas []*replica[In, Out]) {
	p := r.pool
	p.replicas = slices.DeleteFunc(slices.Clone(p.replicas), func(r *replica[In, Out]) bool { return slices.Contains(replicas, r) })
	p.show()
	stop, cancel := context.WithTimeout(p.grace, max(r.from.config.stopTimeout(), r.to.config.stopTimeout()))
	defer cancel()
	if err := stopReplicas(stop, replicas); err != nil {
		r.late = append(r.late, err)
	}
}

// back undoes what was done: the new replicas go, also old ones that died and came back as
// new ones, and old ones take their places as soon as they have started, again and again if
// need be.
func (r *rolling[In, Out]) back() {
	p := r.pool
	if len(r.fresh) > 0 {
		p.put(r.from)
		well := func(one *replica[In, Out]) bool { return !one.outdated(r.from) }
		r.stop(append(r.fresh, slices.DeleteFunc(slices.Clone(r.old), well)...))
	}
	for _, index := range p.indices(r.before - len(p.replicas)) {
		again := newReplica(p, index)
		p.replicas = append(p.replicas, again)
		go again.supervise(nil, nil) // ends when the replica is stopped; stop waits for it
	}
	p.show()
}

// put makes a revision the one that replicas are started with. mu is held.
func (p *Pool[In, Out]) put(r *revision[In, Out]) {
	config := r.config
	p.config.Store(&config)
	p.version.Store(r.version)
	p.batcher.Update(config.limits())
}
