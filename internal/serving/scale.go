package serving

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
)

// sampleEvery is how often the autoscaler looks.
const sampleEvery = 500 * time.Millisecond

// scaler changes the number of a pool's replicas, from one goroutine.
type scaler struct {
	auto     autoscaler
	last     time.Time     // of the last sample
	busy     time.Duration // computed until then
	admitted uint64        // queries admitted until then
	active   time.Time     // when there was last anything to do
	pause    *backoff.ExponentialBackOff
	blocked  time.Time // until when nothing is started, because a start failed

	renewing *backoff.ExponentialBackOff
	tired    time.Time // until when no replica is recycled, because a start failed

	woken   chan struct{} // has room for one: a query waits and there is no replica
	changed chan struct{} // has room for one: the config changed
	done    chan struct{} // closed when the goroutine has ended

	mu     sync.Mutex
	asleep bool   // there are no replicas because nothing is to be done
	state  State  // how the backend stands while it is asleep
	why    string // it could not be woken
	target int    // replicas that the autoscaler wants; 0: it has not said yet
	counts map[string]uint64
}

func newScaler() *scaler {
	return &scaler{
		pause: newPause(), renewing: newPause(), woken: make(chan struct{}, 1), changed: make(chan struct{}, 1), done: make(chan struct{}),
		counts: make(map[string]uint64),
	}
}

// The events that are counted.
const (
	scaledUp   = "up"
	scaledDown = "down"
	wentIdle   = "idle"
	woke       = "wake"
	wakeFailed = "wake_failed"
)

// ScaleEvents lists what may change the number of replicas by itself.
func ScaleEvents() []string { return []string{scaledUp, scaledDown, wentIdle, woke, wakeFailed} }

func (s *scaler) count(event string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts[event]++
}

func (s *scaler) sleeps() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asleep
}

// stand records how a backend stands that is asleep, or that it is not.
func (s *scaler) stand(asleep bool, state State, why string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asleep, s.state, s.why = asleep, state, why
}

// aim records how many replicas the autoscaler wants.
func (s *scaler) aim(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.target = n
}

// show adds to a status.
func (s *scaler) show(status *BackendStatus) {
	s.mu.Lock()
	defer s.mu.Unlock()
	status.ScaleEvents = maps.Clone(s.counts)
	least, most := status.Config.bounds()
	status.Wanted = max(least, min(most, s.target))
	if s.asleep {
		status.Wanted = 0
		status.State, status.Error = s.state, s.why
	}
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // it is signalled already
	}
}

// scale is the goroutine that changes the number of replicas; it ends with ctx,
// which ends when the pool has drained.
func (p *Pool[In, Out]) scale(ctx context.Context) {
	s := p.scaler
	defer close(s.done)
	s.active, s.last = time.Now(), time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.woken:
			p.wake(ctx)
		case <-s.changed: // which started what replicas there should be
			s.active, s.auto = time.Now(), autoscaler{}
			p.unblock()
		case <-timer.C:
			p.adjust(ctx)
		}
		if next := p.nextLook(); next > 0 {
			timer.Reset(next)
		} else {
			timer.Stop()
		}
	}
}

// nextLook is when the scaler must look again; 0: not before it is told.
func (p *Pool[In, Out]) nextLook() time.Duration {
	s, c := p.scaler, p.Config()
	switch {
	case s.sleeps() && s.blocked.IsZero(), !c.scales() && !c.recycles():
		return 0
	case s.sleeps():
		return max(time.Millisecond, time.Until(s.blocked))
	case c.IdleTimeout > 0:
		return min(sampleEvery, max(time.Millisecond, time.Duration(c.IdleTimeout)/4))
	}
	return sampleEvery
}

// adjust looks at the load and changes the number of replicas if it should.
func (p *Pool[In, Out]) adjust(ctx context.Context) {
	s, c, now := p.scaler, p.Config(), time.Now()
	if s.sleeps() {
		if !now.Before(s.blocked) { // the next query may try again
			s.stand(true, StateIdle, "")
			p.unblock()
			if p.batcher.Load().Queued > 0 { // they came before anybody was refused
				p.wake(ctx)
			}
		}
		return
	}
	if p.open.Err() != nil {
		return
	}
	if c.scales() && !p.follow(ctx, c, now) {
		return
	}
	if c.recycles() { // last: it may take minutes, after which what was measured before says nothing
		p.recycle(ctx, c)
	}
}

// follow has the number of replicas follow the load; false: the backend sleeps now.
func (p *Pool[In, Out]) follow(ctx context.Context, c Config, now time.Time) (awake bool) {
	s := p.scaler
	load := p.batcher.Load()
	if load.Admitted != s.admitted || load.Queued+load.Running > 0 {
		s.active, s.admitted = now, load.Admitted
	}
	if idle := time.Duration(c.IdleTimeout); idle > 0 && now.Sub(s.active) >= idle {
		p.sleep()
		return !s.sleeps()
	}
	replicas, working := p.size()
	sample := sample{at: now, replicas: replicas, working: working, wait: load.OldestWait - time.Duration(c.BatchWaitTimeout)}
	if elapsed := now.Sub(s.last); elapsed > 0 {
		sample.busy = float64(load.Busy-s.busy) / float64(elapsed) / float64(c.MaxConcurrentBatches)
	}
	s.last, s.busy = now, load.Busy
	n := s.auto.want(c, sample)
	if n != sample.replicas || s.auto.hot.IsZero() { // else what was wanted is not there yet
		s.aim(n)
	}
	if n != sample.replicas {
		p.resize(ctx, n, sample)
	}
	return true
}

func (p *Pool[In, Out]) size() (replicas, working int) {
	p.statusMu.Lock()
	defer p.statusMu.Unlock()
	for _, r := range p.shown {
		if r.status().State == StateReady {
			working++
		}
	}
	return len(p.shown), working
}

// resize starts or stops replicas until there are n.
func (p *Pool[In, Out]) resize(ctx context.Context, n int, because sample) {
	s := p.scaler
	if n > because.replicas && time.Now().Before(s.blocked) {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	config := p.Config()
	least, most := config.bounds()
	n = max(least, min(most, n)) // it may have changed
	log := p.log.With("replicas", n, "before", len(p.replicas), "busy", because.busy, "waits", because.wait)
	if n <= len(p.replicas) {
		keep, surplus := p.keep(config, n)
		if len(surplus) > 0 {
			s.count(scaledDown)
			log.Info("fewer replicas are enough")
			p.replicas = keep
			p.show()
			p.dismiss(surplus)
		}
		return
	}
	starting, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(p.open, cancel)()
	fresh := p.indices(n - len(p.replicas))
	instances, err := p.start(starting, p.version.Load(), config, fresh)
	if err != nil {
		pause := s.pause.NextBackOff()
		s.blocked = time.Now().Add(pause)
		log.Error("more replicas are needed and could not be started", "next_start_in", pause, "error", err)
		return
	}
	s.pause.Reset()
	s.blocked = time.Time{}
	s.count(scaledUp)
	log.Info("more replicas were needed")
	p.adopt(instances, fresh)
}

// dismiss lets replicas finish their batches and stops them, in the background.
// What was given back to a queue without replicas wakes the backend. mu is held.
func (p *Pool[In, Out]) dismiss(replicas []*replica[In, Out]) {
	p.leaving.Go(func() { // Close waits for it
		stop, cancel := context.WithTimeout(p.grace, p.Config().stopTimeout())
		defer cancel()
		if err := stopReplicas(stop, replicas); err != nil {
			p.log.Warn("a replica that was not needed any more did not end well", "error", err)
		}
		if p.batcher.Load().Queued > 0 {
			signal(p.scaler.woken)
		}
	})
}

// sleep stops all replicas, unless a query has come in the last moment. One that
// comes from now on finds none, and wakes the backend.
func (p *Pool[In, Out]) sleep() {
	s := p.scaler
	p.mu.Lock()
	defer p.mu.Unlock()
	s.stand(true, StateIdle, "")
	s.blocked = time.Time{} // that another replica could not be started says nothing of the first
	if load := p.batcher.Load(); load.Admitted != s.admitted || load.Queued+load.Running > 0 {
		s.stand(false, "", "")
		return
	}
	s.count(wentIdle)
	p.log.Info("the backend is idle: its replicas are stopped until a query comes", "idle_for", time.Since(s.active).Round(time.Millisecond))
	replicas := p.replicas
	p.replicas = nil
	p.show()
	p.dismiss(replicas)
}

// wake starts the first replica of a backend that is asleep, for the queries that
// wait for it. It also does while the backend drains: it has accepted them.
func (p *Pool[In, Out]) wake(ctx context.Context) {
	s := p.scaler
	p.mu.Lock()
	defer p.mu.Unlock()
	if !s.sleeps() || time.Now().Before(s.blocked) { // what waited has failed
		return
	}
	began := time.Now()
	s.stand(true, StateStarting, "")
	index := p.indices(1)
	instances, err := p.start(ctx, p.version.Load(), p.Config(), index)
	if err != nil {
		p.cannotWake(err)
		return
	}
	s.pause.Reset()
	s.count(woke)
	p.unblock()
	p.adopt(instances, index)
	s.stand(false, "", "")
	s.active, s.auto = time.Now(), autoscaler{}
	took := time.Since(began)
	if p.observer != nil {
		p.observer.ColdStart(took)
	}
	p.log.Info("the backend is awake again", "took", took.Round(time.Millisecond))
}

// cannotWake fails the queries that wait, and those that come before the next
// attempt, which the first query after it causes.
func (p *Pool[In, Out]) cannotWake(err error) {
	s := p.scaler
	pause := s.pause.NextBackOff()
	s.blocked = time.Now().Add(pause)
	refusal := &Error{
		Code: Unavailable, RetryAfter: pause,
		Message: fmt.Sprintf("backend %q was idle and could not be started again: %v", p.name, err),
	}
	s.count(wakeFailed)
	s.stand(true, StateFailed, refusal.Message)
	if !errors.Is(err, context.Canceled) {
		p.log.Error("an idle backend could not be started again", "next_start_in", pause, "error", err, "diagnosis", traceback(err))
	}
	p.refuse(noWaking, refusal)
}

// unblock ends what cannotWake began.
func (p *Pool[In, Out]) unblock() {
	p.scaler.blocked = time.Time{}
	p.refuse(noWaking, nil)
}
