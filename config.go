package shoal

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/shoalserve/shoal/internal/serving"
)

// Config is how a backend is to be run. Zero fields take their defaults.
type Config struct {
	// MaxBatchSize is the most that one batch holds: queries, or what the
	// model's Cost counts. Default 32 for a batch function, else 1.
	MaxBatchSize int
	// BatchWaitTimeout is how long the oldest query is held back for its batch
	// to fill while a replica is free. Default 0: not at all.
	BatchWaitTimeout time.Duration
	// LatencySLO is the objective for the time from a query's arrival to its
	// answer: batches are no larger, and held no longer, than meets it by the
	// service times learned so far. Default 0: there is none.
	LatencySLO time.Duration
	// LeaveAtOnce switches the departure policy off, which holds a batch back
	// for a moment where it learned that this makes answers come sooner.
	LeaveAtOnce bool
	// NumReplicas is how many instances of the model run, at most 1,000. Default 1.
	NumReplicas int
	// MaxQueued is the most queries that may wait; more are refused with
	// [ErrQueueFull]. Default 4096.
	MaxQueued int
	// MaxQueuedBytes is the most bytes that may wait. Default 256 MiB.
	MaxQueuedBytes int64
	// MaxConcurrentBatches is how many batches one replica computes at once, at
	// most 10,000. Default 1.
	MaxConcurrentBatches int
	// Timeout bounds the time from the arrival of an HTTP query to its answer.
	// Callers of handles bring a context instead: without a deadline of theirs, their
	// queries are neither refused, nor dropped, nor given up for the time they take. Default 60s.
	Timeout time.Duration
	// ExposeTraceback shows HTTP callers the stack of a model that panicked.
	ExposeTraceback bool
	// BatchTimeout is the longest that a replica may compute one batch. One that
	// takes longer gets [ErrBatchTimeout], its function's context ends, and
	// another replica takes the place; the function itself cannot be stopped. Default none.
	BatchTimeout time.Duration
	// QueueTimeTarget is how long queries may wait when they have waited longer for a
	// while: then more are refused, with [ErrQueueFull]. Default 0: they may wait as long
	// as their deadlines allow.
	QueueTimeTarget time.Duration
	// ComputeLate has queries admitted and computed that cannot be answered by their
	// deadlines, by the service times learned so far. Else they are refused at once.
	ComputeLate bool
	// CallerWeights are the shares that callers get of a backend that is not enough for
	// all; "*" is any other caller. Default 1 each.
	CallerWeights map[string]float64
	// IsolateCallers never lets queries of two callers share a batch.
	IsolateCallers bool
	// MaxReplicas, if it is more than NumReplicas, lets more instances run while
	// queries wait for longer than ScaleUpQueueTime (default 100ms); there are fewer
	// again when fewer have been enough for ScaleDownDelay (default 5m). Default 0: NumReplicas run.
	MaxReplicas      int
	ScaleUpQueueTime time.Duration
	ScaleDownDelay   time.Duration
	// IdleTimeout is how long there must be no query before all instances are
	// stopped; the next query starts one and waits for it. Default 0: never.
	IdleTimeout time.Duration
	// OnBatchError says what becomes of a batch for which the function returns
	// an error for all, panics, or returns another number of answers. Default
	// [Isolate].
	OnBatchError OnBatchError
	// VerifyOneIn has about one in so many queries that were answered in a batch with
	// others computed again, alone, when an instance is idle, and the answers, as JSON,
	// compared as VerifyCompare says: [BackendInfo] tells how many differ. Nobody, nor
	// the model, may change an input that is computed twice. Default 0: none.
	VerifyOneIn   int
	VerifyCompare *Compare
}

// OnBatchError says what becomes of a batch that fails as a whole.
type OnBatchError = serving.OnBatchError

const (
	// Isolate has it computed again in parts, until the guilty queries stand
	// alone: only they fail, each with its own error.
	Isolate = serving.Isolate
	// FailAll fails all of its queries at once: for models whose calls have
	// effects that must not be repeated.
	FailAll = serving.FailAll
)

func (c Config) internal() (serving.Config, error) {
	config := serving.Config{
		MaxBatchSize: c.MaxBatchSize, BatchWaitTimeout: serving.Duration(c.BatchWaitTimeout), LeaveAtOnce: c.LeaveAtOnce, LatencySLO: serving.Duration(c.LatencySLO), NumReplicas: c.NumReplicas,
		MaxQueued: c.MaxQueued, MaxQueuedBytes: serving.Size(c.MaxQueuedBytes), MaxConcurrentBatches: c.MaxConcurrentBatches,
		Timeout: serving.Duration(c.Timeout), ExposeTraceback: c.ExposeTraceback, BatchTimeout: serving.Duration(c.BatchTimeout),
		QueueTimeTarget: serving.Duration(c.QueueTimeTarget), ComputeLate: c.ComputeLate,
		CallerWeights: maps.Clone(c.CallerWeights), IsolateCallers: c.IsolateCallers, OnBatchError: c.OnBatchError,
		MaxReplicas: c.MaxReplicas, ScaleUpQueueTime: serving.Duration(c.ScaleUpQueueTime), ScaleDownDelay: serving.Duration(c.ScaleDownDelay),
		IdleTimeout: serving.Duration(c.IdleTimeout), VerifyOneIn: c.VerifyOneIn, VerifyCompare: clone(c.VerifyCompare),
	}
	return config, config.Validate()
}

func newConfig(c serving.Config) Config {
	return Config{
		MaxBatchSize: c.MaxBatchSize, BatchWaitTimeout: time.Duration(c.BatchWaitTimeout), LeaveAtOnce: c.LeaveAtOnce, LatencySLO: time.Duration(c.LatencySLO), NumReplicas: c.NumReplicas,
		MaxQueued: c.MaxQueued, MaxQueuedBytes: int64(c.MaxQueuedBytes), MaxConcurrentBatches: c.MaxConcurrentBatches,
		Timeout: time.Duration(c.Timeout), ExposeTraceback: c.ExposeTraceback, BatchTimeout: time.Duration(c.BatchTimeout),
		QueueTimeTarget: time.Duration(c.QueueTimeTarget), ComputeLate: c.ComputeLate,
		CallerWeights: maps.Clone(c.CallerWeights), IsolateCallers: c.IsolateCallers, OnBatchError: c.OnBatchError,
		MaxReplicas: c.MaxReplicas, ScaleUpQueueTime: time.Duration(c.ScaleUpQueueTime), ScaleDownDelay: time.Duration(c.ScaleDownDelay),
		IdleTimeout: time.Duration(c.IdleTimeout), VerifyOneIn: c.VerifyOneIn, VerifyCompare: clone(c.VerifyCompare),
	}
}

func (e *Example) internal() (*serving.Example, error) {
	example := &serving.Example{Query: e.Query}
	if e.JSON != nil {
		body, err := json.Marshal(e.JSON)
		if err != nil {
			return nil, fmt.Errorf("writing the example as JSON: %w", err)
		}
		example.JSON = body
	}
	return example, nil
}

// clone copies how answers are compared, so that two owners of a config share nothing.
func clone(c *Compare) *Compare {
	if c == nil {
		return nil
	}
	copied := *c
	copied.Ignore = slices.Clone(c.Ignore)
	return &copied
}
