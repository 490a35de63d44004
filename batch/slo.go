package batch

import (
	"sort"
	"time"
)

// likely is the time within which a batch of cost n is mostly computed; 0 as long
// as nothing was learned.
func (s *serviceTimes) likely(n int) time.Duration {
	if s.batches == 0 {
		return 0
	}
	return time.Duration(s.at(n) * (1 + 2*s.spread))
}

// most is the largest cost that a batch of g may have if a replica begins it at
// the given moment. Where all that waits would be late for the oldest query that can
// still be in time, it is the largest that is in time for it, if that makes fewer
// late: those who stay behind are computed in the batch after, which has as many
// for those who come meanwhile. Otherwise, and where nobody can be in time, smaller
// batches would only make the queue grow. (Nexus, SOSP 2019, section 6.3, drops the
// oldest for the same reason; here they are answered late.) mu is held.
func (b *Batcher[In, Out]) most(g *group[In, Out], begin time.Time) int {
	limit := b.limits.MaxBatchSize
	if b.limits.LatencySLO <= 0 || b.service.batches == 0 {
		return limit
	}
	due := begin.Add(-b.limits.LatencySLO) // who arrived then must be answered at begin
	all := b.service.likely(min(g.cost, limit))
	if all <= g.oldest().arrived.Sub(due) {
		return limit
	}
	order, before := b.waiting.order(g), 0
	first := order.next()
	for alone := b.service.likely(1); first.arrived.Sub(due) < alone; {
		before += first.cost
		if first = order.next(); first == nil || before >= limit {
			return limit
		}
	}
	left := first.arrived.Sub(due)
	n := sort.Search(min(g.cost, limit), func(n int) bool { return b.service.likely(n+1) > left })
	if n < before+first.cost {
		return limit
	}
	now, then := b.service.likely(n), b.service.likely(n)+all
	// Two batches take longer than one: those who come later pay for that.
	size := min(g.cost, limit)
	saved := -float64(size) * (b.service.at(n) + b.service.at(max(1, size-n)) - b.service.at(size)) / b.service.at(size)
	order = b.waiting.order(g)
	for q, cost := order.next(), 0; q != nil && cost+q.cost <= limit; q = order.next() {
		cost += q.cost
		left, took := q.arrived.Sub(due), now
		if cost > n {
			took = then
		}
		if all > left {
			saved++
		}
		if took > left {
			saved--
		}
	}
	if saved <= 0 {
		return limit
	}
	return n
}

// leaveBy is the moment by which g, joined by another query, must leave to meet
// Limits.LatencySLO; zero without one. mu is held.
func (b *Batcher[In, Out]) leaveBy(g *group[In, Out]) time.Time {
	if b.limits.LatencySLO <= 0 {
		return time.Time{}
	}
	return g.oldest().arrived.Add(b.limits.LatencySLO - b.service.likely(min(g.cost+1, b.limits.MaxBatchSize)))
}

// wait is how long batch_wait_timeout may hold the oldest query: what was asked
// for, or what Limits.LatencySLO leaves. mu is held.
func (b *Batcher[In, Out]) wait() time.Duration {
	if b.limits.BatchWaitTimeout <= 0 || b.limits.LatencySLO <= 0 {
		return b.limits.BatchWaitTimeout
	}
	return max(0, min(b.limits.BatchWaitTimeout, b.limits.LatencySLO-b.service.likely(b.limits.MaxBatchSize)))
}
