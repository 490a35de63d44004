package serving

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Clocked is an [Instance] that knows how much processor time it has used.
type Clocked interface {
	// CPUTime returns 0 when it cannot be told.
	CPUTime() time.Duration
}

const (
	// recycleJitter is the part of recycle_after by which replicas exceed it, at
	// random: those that started together must not all be replaced together.
	recycleJitter = 0.1
	// recycleCPU is the part of cpu_time_limit at which a replica is replaced.
	recycleCPU = 0.8
)

// recycles reports whether replicas that are well may have to be replaced.
func (c Config) recycles() bool { return c.RecycleAfter > 0 || c.CPUTimeLimit > 0 }

// worn says why the replica is to be replaced by a fresh one; empty: it is not.
func (r *replica[In, Out]) worn(c Config) string {
	r.mu.Lock()
	instance, attached, jitter, ready := r.instance, r.attached, r.jitter, r.now.State == StateReady
	r.mu.Unlock()
	if !ready || instance == nil {
		return ""
	}
	if n := float64(c.RecycleAfter) * (1 + jitter*recycleJitter); n > 0 && float64(attached.Activity().Answered) >= n {
		return fmt.Sprintf("it answered recycle_after (%d) batches", c.RecycleAfter)
	}
	clocked, ok := instance.(Clocked)
	if limit := time.Duration(c.CPUTimeLimit); ok && limit > 0 && clocked.CPUTime() >= time.Duration(recycleCPU*float64(limit)) {
		return fmt.Sprintf("it used %.0f %% of cpu_time_limit (%v)", 100*recycleCPU, limit)
	}
	return ""
}

// recycle replaces the first replica that is worn, if any: a fresh one starts and is warmed
// up, then the old one finishes its batches and ends; with a max_surge of 0, the other way
// round. One that cannot be replaced works on, until the next attempt. The scaler calls it.
func (p *Pool[In, Out]) recycle(ctx context.Context, c Config) {
	s := p.scaler
	if time.Now().Before(s.tired) {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, old := range p.replicas {
		if why := old.worn(c); why != "" {
			p.renew(ctx, old, why)
			return
		}
	}
}

// renew replaces a replica by a fresh one. mu is held.
func (p *Pool[In, Out]) renew(ctx context.Context, old *replica[In, Out], why string) {
	s, config := p.scaler, p.Config()
	log := p.log.With("replica", old.index, "because", why)
	now := p.revision()
	r := &rolling[In, Out]{
		pool: p, from: now, to: now, n: 1, most: 1 + config.surge(1),
		old: []*replica[In, Out]{old}, before: len(p.replicas),
	}
	if err := r.do(ctx); err != nil {
		pause := s.renewing.NextBackOff()
		s.tired = time.Now().Add(pause)
		log.Error("a replica is to be recycled, and a fresh one could not be started", "next_start_in", pause, "error", err)
		return
	}
	s.renewing.Reset()
	p.restarts.add(ReasonRecycle)
	if err := errors.Join(r.late...); err != nil {
		log.Warn("a replica that was recycled did not end well", "error", err)
		return
	}
	log.Info("replica recycled", "fresh", r.fresh[0].index)
}
