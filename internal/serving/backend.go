package serving

import (
	"context"
	"fmt"
	"time"

	"github.com/shoalserve/shoal/batch"
	"github.com/shoalserve/shoal/internal/tensor"
)

// Backend is a named model version that computes calls. A [Pool] is one.
type Backend interface {
	Name() string
	// Kind is the language of the model: "go" or "python".
	Kind() string
	Config() Config
	// Submit admits a call, whose Done is then called exactly once, or refuses it.
	Submit(*Call) error
	// Withdraw is [Call.Withdraw].
	Withdraw(*Call) bool
	// Update changes the config while queries run; it returns when the new one
	// is in force.
	Update(context.Context, Config) error
	Status() BackendStatus
	// Close refuses new calls, finishes the accepted ones and stops the
	// replicas; when ctx ends first, what is left fails.
	Close(context.Context) error
}

// Runtime starts replicas of one backend.
type Runtime[In, Out any] interface {
	// Start returns when the replica is ready to compute, or with a *LoadError.
	// It gives up when ctx ends.
	Start(ctx context.Context, spec ReplicaSpec) (Instance[In, Out], error)
}

// ReplicaSpec says what to start.
type ReplicaSpec struct {
	Backend string
	Index   int
	// Config's MaxBatchSize is 0 when nobody chose one.
	Config Config
}

// Instance is one running replica.
type Instance[In, Out any] interface {
	// Run starts computing a batch and returns soon; the instance completes it.
	// Once Exited is closed it keeps what it is given, for Stop to fail.
	Run(*batch.Batch[In, Out])
	// Batched reports whether the model takes more than one query a call.
	Batched() bool
	// PID is the process of the replica.
	PID() int
	// Exited is closed when the replica ended by itself; Err then says why.
	Exited() <-chan struct{}
	Err() error
	// Stop ends the replica and fails the batches that it still has. It waits
	// for a clean end until ctx ends, then forces it.
	Stop(ctx context.Context) error
}

// ArrayTaker is an [Instance], or a [Backend], some of whose methods take arrays.
type ArrayTaker interface {
	// Arrays is what the method takes; nil if it takes calls as they are.
	Arrays(method string) *tensor.Signature
}

// TakesAhead is an Instance that gains by having its next batch before it is
// free: it is handed one more batch than it computes at once, and computes them
// in the order in which they came.
type TakesAhead[In, Out any] interface {
	// Recall asks for batches that Run was given ahead; those that were not
	// begun are given back with [batch.Batch.Return].
	Recall(*batch.Batch[In, Out])
}

// Cancels is an Instance that can tell its model that nobody waits for a batch
// any more.
type Cancels interface {
	// Cancel is [batch.ReplicaOptions].Cancel.
	Cancel(id uint64)
}

// BackendStatus is a backend as operators see it.
type BackendStatus struct {
	Name     string          `json:"name"`
	Kind     string          `json:"kind"`
	State    State           `json:"state"`
	Config   Config          `json:"config"`
	Replicas []ReplicaStatus `json:"replicas"`
	Queued   int             `json:"queued"`
	Running  int             `json:"running"`
	Wanted   int             `json:"replicas_wanted"` // how many there are to be; 0 while it is idle
	Restarts uint64          `json:"restarts"`        // of all replicas, also of those that are gone
	Stats    Stats           `json:"stats"`

	// RestartReasons are the Restarts by why they were needed.
	RestartReasons map[RestartReason]uint64 `json:"restart_reasons"`
	// ScaleEvents counts what changed the number of replicas by itself.
	ScaleEvents map[string]uint64 `json:"scale_events"`
	// Error is why an idle backend could not be woken.
	Error string `json:"error,omitempty"`
	// Stuck counts replicas that were given up and have not ended.
	Stuck int `json:"stuck"`
	// Verified are the live queries that were computed a second time, alone.
	Verified VerifiedStatus `json:"verified,omitzero"`
}

// why tells what the last replica that is not well failed with.
func (s BackendStatus) why() string {
	if s.Error != "" {
		return ": " + s.Error
	}
	for _, r := range s.Replicas {
		if r.Error != "" {
			return fmt.Sprintf(": replica %d, restarted %d times: %s", r.Index, r.Restarts, r.Error)
		}
	}
	return ""
}

// ReplicaStatus is a replica as operators see it.
type ReplicaStatus struct {
	Index    int    `json:"index"`
	State    State  `json:"state"`
	PID      int    `json:"pid,omitempty"`
	Restarts int    `json:"restarts"`
	Error    string `json:"error,omitempty"` // of the last failure
}

// Stats counts what a backend did.
type Stats struct {
	Admitted   uint64            `json:"admitted"`
	Answered   uint64            `json:"answered"`
	Refused    uint64            `json:"refused"`
	Dropped    uint64            `json:"dropped"`
	Failed     uint64            `json:"failed"`
	Batches    uint64            `json:"batches"`
	Ahead      uint64            `json:"ahead"`          // batches sent to a replica that was still busy
	Returned   uint64            `json:"returned"`       // of those, the ones given back before they began
	Isolated   uint64            `json:"isolated"`       // batches that failed as a whole and were computed again in parts
	Poison     uint64            `json:"poison"`         // queries refused because replicas died of them
	Wasted     float64           `json:"wasted_seconds"` // of computing for callers that had left
	MeanBatch  float64           `json:"mean_batch"`
	BatchSizes map[int]uint64    `json:"batch_sizes"`
	Reasons    map[string]uint64 `json:"reasons"`
	Refusals   map[string]uint64 `json:"refusals"` // refused, by why
	Evicted    uint64            `json:"evicted"`  // dropped to make room for others
	Late       uint64            `json:"late"`     // dropped because their deadline could not be met any more
}

// EndpointStatus is an endpoint as operators see it.
type EndpointStatus struct {
	Name    string             `json:"name"`
	Route   string             `json:"route,omitempty"`
	Methods []string           `json:"methods,omitempty"`
	Traffic map[string]float64 `json:"traffic"`
	Shadows map[string]float64 `json:"shadows"`
	Example *Example           `json:"example,omitempty"`
	// Comparisons are of the shadows whose answers are compared.
	Comparisons map[string]ComparisonStatus `json:"comparisons,omitempty"`
	// Canary is the one that runs, or the last that ran.
	Canary *CanaryStatus `json:"canary,omitempty"`
}

// Observer is told what a backend does, for metrics. It is called on the way of
// every query and must be quick.
type Observer interface {
	// Batch is told of each batch that was computed.
	Batch(size int, reason batch.Reason, computed time.Duration)
	// Queued is told how long each query waited before its batch left.
	Queued(time.Duration)
	// ColdStart is told how long it took an idle backend to have a replica again.
	ColdStart(time.Duration)
}
