package sim

import (
	"time"

	"github.com/shoalserve/shoal/batch"
)

type (
	simOptions = batch.Options[struct{}, struct{}]
	simBatch   = batch.Batch[struct{}, struct{}]
)

// Policy is a way to choose when batches leave. apply sets it up; what it
// returns, if anything, is called after each batch.
type Policy struct {
	Name  string
	apply func(*simOptions) func(*World, *simBatch)
}

// Learned is the policy that a Batcher has by default.
func Learned() Policy {
	return Policy{"learned", func(*simOptions) func(*World, *simBatch) { return nil }}
}

// AtOnce leaves whenever a replica is free.
func AtOnce() Policy {
	return Policy{"at once", func(o *simOptions) func(*World, *simBatch) {
		o.LeaveAtOnce = true
		return nil
	}}
}

// FixedWait holds the oldest query for up to d.
func FixedWait(d time.Duration) Policy {
	return Policy{"wait " + d.String(), func(o *simOptions) func(*World, *simBatch) {
		o.BatchWaitTimeout = d
		return nil
	}}
}

// AIMD is Clipper's policy: leave at once, with a maximum that grows by a step
// while batches meet the objective and shrinks by a tenth when one does not
// (Crankshaw et al., Clipper, NSDI 2017, section 4.3.1).
func AIMD(objective time.Duration) Policy {
	return Policy{"AIMD", func(o *simOptions) func(*World, *simBatch) {
		o.LeaveAtOnce, o.LatencySLO = true, 0
		size, most := 1., float64(o.MaxBatchSize)
		o.MaxBatchSize = 1
		return func(w *World, b *simBatch) {
			if b.Computed > objective {
				size = max(1, size*0.9)
			} else if len(b.Queries) >= int(size) {
				size = min(most, size+1)
			}
			l := w.batcher.Limits()
			l.MaxBatchSize = int(size)
			w.batcher.Update(l)
		}
	}}
}

// Crude is a rule that learns nothing: after a batch, hold until as many wait as
// were answered and waited already, for 1 ms at most.
func Crude() Policy {
	return Policy{"crude", func(o *simOptions) func(*World, *simBatch) {
		o.Departure = &crude{}
		return nil
	}}
}

type crude struct {
	want, waiting int
	until         time.Time
}

func (c *crude) Arrived(time.Time, batch.Group) { c.waiting++ }

func (c *crude) Answered(now time.Time, a batch.Answered) {
	c.want, c.until = c.waiting+a.Queries, now.Add(time.Millisecond)
}

func (c *crude) Hold(now time.Time, w batch.Waiting) time.Time {
	if w.Queries >= c.want || w.Free > 1 {
		return now
	}
	return c.until
}

func (c *crude) Left(_ time.Time, w batch.Waiting) { c.waiting -= w.Queries }

// WithoutSLO is the default policy that does not know of the objective.
func WithoutSLO() Policy {
	return Policy{"no objective", func(o *simOptions) func(*World, *simBatch) {
		o.LatencySLO = 0
		return nil
	}}
}
