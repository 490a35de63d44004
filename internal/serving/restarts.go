package serving

import (
	"slices"
	"sync/atomic"
)

// RestartReason says why a replica had to be restarted.
type RestartReason string

// The reasons.
const (
	// ReasonDied: the worker's process ended by itself.
	ReasonDied RestartReason = "died"
	// ReasonStart: it did not become ready.
	ReasonStart RestartReason = "start"
	// ReasonBatchTimeout: it computed a batch for longer than batch_timeout.
	ReasonBatchTimeout RestartReason = "batch_timeout"
	// ReasonHeartbeat: it gave no sign of life for heartbeat_timeout.
	ReasonHeartbeat RestartReason = "heartbeat"
	// ReasonRecycle: it was well, and a fresh one took its place.
	ReasonRecycle RestartReason = "recycle"
)

var restartReasons = []RestartReason{ReasonDied, ReasonStart, ReasonBatchTimeout, ReasonHeartbeat, ReasonRecycle}

// RestartReasons lists every RestartReason.
func RestartReasons() []RestartReason { return slices.Clone(restartReasons) }

// restartCounts counts restarts by reason, of all replicas of a backend.
type restartCounts [5]atomic.Uint64

func (c *restartCounts) add(reason RestartReason) {
	c[slices.Index(restartReasons, reason)].Add(1)
}

// byReason returns the counts that are not 0, and their sum.
func (c *restartCounts) byReason() (counts map[RestartReason]uint64, sum uint64) {
	counts = make(map[RestartReason]uint64)
	for i, reason := range restartReasons {
		if n := c[i].Load(); n > 0 {
			counts[reason] = n
			sum += n
		}
	}
	return counts, sum
}

// maxStuck is how many instances of a backend that were given up, and are not
// gone, there may be. With more no replica is started again: what they hold, memory and
// goroutines, must not grow without bound.
const maxStuck = 8

// leave counts an instance that was given up until nothing of it runs any more.
func (p *Pool[In, Out]) leave(instance Instance[In, Out]) {
	i, ok := instance.(Interrupter)
	if !ok {
		return
	}
	select {
	case <-i.Gone():
		return
	default:
	}
	n := p.stuck.Add(1)
	p.log.Warn("what a replica computed cannot be stopped and is left behind: a function that never returns?", "left_behind", n, "at_most", maxStuck)
	go func() { // ends with the instance; nobody can make it
		<-i.Gone()
		p.stuck.Add(-1)
	}()
}
