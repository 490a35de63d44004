package batch

import (
	"fmt"
	"sync"
)

// split is a query that was too large for one batch, and its parts. The parts
// are queries of their own; the last to be answered joins the answers.
type split[In, Out any] struct {
	whole *Query[In, Out]
	parts []*Query[In, Out]
	join  func([]Out) (Out, error)

	mu        sync.Mutex
	remaining int
	err       error // the first part's error
}

// cutUnlocked is cut without the lock, since it calls the user's callbacks; meanwhile
// a drain may have begun. mu is held before and after.
func (b *Batcher[In, Out]) cutUnlocked(q *Query[In, Out]) (*split[In, Out], error) {
	maximum := b.limits.MaxBatchSize
	b.mu.Unlock()
	s, err := b.cut(q, maximum)
	b.mu.Lock()
	if err == nil {
		err = b.refuses()
	}
	return s, err
}

// cut splits q into parts of at most maximum each.
func (b *Batcher[In, Out]) cut(q *Query[In, Out], maximum int) (*split[In, Out], error) {
	if b.opts.Split == nil || b.opts.Join == nil {
		return nil, &TooLargeError{Name: b.opts.Name, Cost: q.cost, Max: maximum}
	}
	inputs, costs, err := b.splitInput(q.In, maximum)
	if err != nil {
		return nil, err
	}
	s := &split[In, Out]{whole: q, join: b.opts.Join, remaining: len(inputs)}
	for i, in := range inputs {
		part := &Query[In, Out]{
			Context: q.Context, In: in, Origin: q.Origin, Done: s.answered,
			Caller: q.Caller, Priority: q.Priority, Deadline: q.Deadline,
			cost: costs[i], bytes: q.bytes / int64(len(inputs)),
		}
		s.parts = append(s.parts, part)
	}
	return s, nil
}

func (b *Batcher[In, Out]) splitInput(in In, maximum int) (parts []In, costs []int, err error) {
	where := "split"
	defer recovered(&where, &err)
	parts = b.opts.Split(in, maximum)
	if len(parts) == 0 {
		return nil, nil, fmt.Errorf("backend %q: split returned no parts", b.opts.Name)
	}
	where = "cost"
	for i, part := range parts {
		cost := max(1, b.opts.Cost(part))
		if cost > maximum {
			return nil, nil, fmt.Errorf("backend %q: split returned part %d with cost %d, more than max_batch_size %d", b.opts.Name, i, cost, maximum)
		}
		costs = append(costs, cost)
	}
	return parts, costs, nil
}

// answered is the Done of every part.
func (s *split[In, Out]) answered(part *Query[In, Out]) {
	s.mu.Lock()
	s.remaining--
	if s.err == nil {
		s.err = part.Err
	}
	last := s.remaining == 0
	s.mu.Unlock()
	if last {
		s.finish(part)
	}
}

func (s *split[In, Out]) finish(last *Query[In, Out]) {
	whole := s.whole
	whole.Trip = last.Trip
	whole.Trip.Queued = s.parts[0].Trip.Queued
	// From when the first part left until the last was answered.
	whole.Trip.Computed = max(0, last.Trip.Queued+last.Trip.Computed-whole.Trip.Queued)
	whole.Err = s.err
	if whole.Err == nil {
		outs := make([]Out, len(s.parts))
		for i, part := range s.parts {
			outs[i] = part.Out
		}
		whole.Out, whole.Err = s.joined(outs)
	}
	whole.Done(whole)
}

func (s *split[In, Out]) joined(outs []Out) (out Out, err error) {
	where := "join"
	defer recovered(&where, &err)
	return s.join(outs)
}

// withdrawParts takes the waiting parts of a split query out of the queue. It
// reports true if no part is being computed. b.mu is held.
func (b *Batcher[In, Out]) withdrawParts(s *split[In, Out], gone *abandoned[In, Out]) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.remaining == 0 {
		return false // answered already
	}
	for _, part := range s.parts {
		if !b.withdraw(part, gone) {
			continue
		}
		s.remaining--
		if s.err == nil {
			s.err = left(b.opts.Name, part)
		}
	}
	return s.remaining == 0
}
