package serving

import (
	"log/slog"
	"time"

	"github.com/shoalserve/shoal/batch"
)

// Interrupter is an [Instance] that can be made to give up a batch which computes
// for too long.
type Interrupter interface {
	// Interrupt fails the batch of that ID with err, unless it was answered
	// meanwhile, and breaks off its computation as well as it can. After it the
	// instance is only good for Stop, which fails what else it computed and returns when
	// another instance may take its place.
	Interrupt(id uint64, err error)
	// Gone is closed when nothing of the instance runs any more.
	Gone() <-chan struct{}
}

// Pulsed is an [Instance] that can be asked for a sign of life.
type Pulsed interface {
	// Ping asks for a sign of life, if the instance is idle and owes none. It
	// returns since when the instance owes one; zero if it owes none.
	Ping() time.Time
}

// watchdog tells when an instance is stuck: computing for longer than
// batch_timeout, or not giving a sign of life. It looks at the replica when the earliest
// batch could be late, so that batches need not tell it anything.
type watchdog[In, Out any] struct {
	instance Instance[In, Out]
	attached *batch.Replica[In, Out]
	config   func() Config
	log      *slog.Logger
	timer    *time.Timer
	beat     time.Time // when the next sign of life is to be asked for
	warned   uint64    // the batch that a warning was about
}

func (r *replica[In, Out]) watchdog(instance Instance[In, Out], attached *batch.Replica[In, Out]) *watchdog[In, Out] {
	return &watchdog[In, Out]{
		instance: instance, attached: attached, config: r.pool.Config,
		log: r.pool.log.With("replica", r.index), timer: time.NewTimer(0), beat: time.Now(),
	}
}

// stuck is why an instance is to be replaced. ID is the batch that is late; 0
// when a sign of life is.
type stuck struct {
	id  uint64
	err *Error
}

// look returns why the instance is to be replaced, nil if it is well; the timer
// then fires when it is to look again.
func (w *watchdog[In, Out]) look() *stuck {
	now, config := time.Now(), w.config()
	late, next := w.lateBatch(now, config)
	if late != nil {
		return late
	}
	silent, beat := w.pulse(now, time.Duration(config.HeartbeatTimeout))
	if silent != nil {
		return silent
	}
	w.timer.Reset(min(next, beat))
	return nil
}

// lateBatch looks for a batch that computes beyond batch_timeout and tells when
// there can be one next. Without a batch_timeout it warns of one whose callers have all
// given up.
func (w *watchdog[In, Out]) lateBatch(now time.Time, config Config) (*stuck, time.Duration) {
	limit, enforced := time.Duration(config.BatchTimeout), config.BatchTimeout > 0
	if !enforced {
		limit = time.Duration(config.Timeout)
	}
	a := w.attached.Activity()
	if a.Oldest == 0 || (!enforced && a.Oldest == w.warned) {
		return nil, limit // what begins from now on cannot be late before
	}
	if left := limit - now.Sub(a.Since); left > 0 {
		return nil, left
	}
	if enforced {
		return &stuck{a.Oldest, Errorf(BatchTimeout, "a batch of %d computed for longer than batch_timeout (%v) and was given up", a.Queries, limit)}, 0
	}
	w.warned = a.Oldest
	w.log.Warn("a batch has computed for longer than timeout, so that nobody waits for it any more; "+
		"set batch_timeout to have such replicas replaced", "batch", a.Oldest, "queries", a.Queries, "since", a.Since)
	return nil, limit
}

// beats is how often an idle instance is asked within heartbeat_timeout.
const beats = 3

// pulse asks for signs of life and tells when to ask again.
func (w *watchdog[In, Out]) pulse(now time.Time, timeout time.Duration) (*stuck, time.Duration) {
	pulsed, ok := w.instance.(Pulsed)
	if !ok {
		return nil, time.Hour
	}
	if left := w.beat.Sub(now); left > 0 {
		return nil, left
	}
	w.beat = now.Add(timeout / beats)
	if owes := pulsed.Ping(); !owes.IsZero() && now.Sub(owes) >= timeout {
		return &stuck{0, Errorf(WorkerDied, "it gave no sign of life for longer than heartbeat_timeout (%v)", timeout)}, 0
	}
	return nil, timeout / beats
}
