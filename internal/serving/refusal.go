package serving

import "sync"

// cause is one of the things for which a backend refuses queries.
type cause int

const (
	noReplica cause = iota // none of its replicas can work for a while
	noWaking               // it was idle and cannot be started

	causes // number of them
)

// refusals are why a backend refuses queries at once, which would wait for nothing.
// Nobody else tells the batcher, so that the end of one cause does not end another.
type refusals struct {
	mu  sync.Mutex
	why [causes]*Error // nil: not for that
}

// refuse has the backend refuse queries for a cause, or not any more, with nil.
func (p *Pool[In, Out]) refuse(because cause, why *Error) {
	r := &p.refusals
	r.mu.Lock()
	defer r.mu.Unlock()
	if why == nil && r.why[because] == nil {
		return
	}
	r.why[because] = why
	for _, why := range r.why {
		if why != nil {
			p.batcher.Refuse(why)
			return
		}
	}
	p.batcher.Refuse(nil)
}

// block notes why the replica cannot work before its next start, or that it may.
func (r *replica[In, Out]) block(why *Error) {
	r.mu.Lock()
	r.blocked = why != nil
	r.mu.Unlock()
	r.pool.judge(why)
}

// judgement is whether all replicas of a backend are blocked.
type judgement struct {
	mu     sync.Mutex // held by judge
	newest *Error     // why one was
}

// judge has the backend refuse queries while each of its replicas is blocked, for the
// newest reason.
func (p *Pool[In, Out]) judge(newest *Error) {
	j := &p.judgement
	j.mu.Lock()
	defer j.mu.Unlock()
	if newest != nil {
		j.newest = newest
	}
	if p.allBlocked() {
		p.refuse(noReplica, j.newest)
	} else {
		p.refuse(noReplica, nil)
	}
}

func (p *Pool[In, Out]) allBlocked() bool {
	p.statusMu.Lock()
	defer p.statusMu.Unlock()
	for _, r := range p.shown {
		if !r.isBlocked() {
			return false
		}
	}
	return len(p.shown) > 0
}

func (r *replica[In, Out]) isBlocked() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.blocked
}
