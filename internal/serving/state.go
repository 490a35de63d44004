package serving

// State is where a replica, or a backend as the sum of its replicas, stands.
//
//	starting ──▶ ready ──▶ draining ──▶ stopped
//	   ▲           │
//	   └── failed ◀┘ (a replica that died waits in failed before it starts anew)
//
// One that fails 5 times in a row, and was of no use in between, is crash_looping
// until it is ready again.
type State string

// The states of a replica. A backend is ready while one of its replicas is.
const (
	StateStarting State = "starting"
	StateReady    State = "ready"
	StateFailed   State = "failed"
	StateDraining State = "draining"
	StateStopped  State = "stopped"

	StateCrashLooping State = "crash_looping"
	// StateIdle is of a backend alone: it has no replicas, because there was no
	// query for idle_timeout, and starts one for the next query.
	StateIdle State = "idle"
)
