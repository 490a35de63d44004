package admin

import (
	"context"
	"encoding/json"
	"iter"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/shoalserve/shoal/internal/serving"
	"github.com/shoalserve/shoal/internal/telemetry"
)

// LogLine is a line that a worker wrote.
type LogLine = telemetry.Line

// Logs keeps the last lines of the workers.
type Logs interface {
	// Tail returns the last n lines of a backend, or of all if it is empty,
	// oldest first.
	Tail(backend string, n int) []LogLine
	// Follow yields the same lines, and then each new one until ctx ends.
	Follow(ctx context.Context, backend string, n int) iter.Seq[LogLine]
}

const (
	defaultTail = 100
	maxTail     = 1_000_000
)

func (f *Front) logs(w http.ResponseWriter, r *http.Request) error {
	follow, err := boolParam(r, "follow")
	if err != nil {
		return err
	}
	tail, err := tailParam(r)
	if err != nil {
		return err
	}
	if f.opts.Logs == nil {
		return serving.Errorf(serving.Unavailable, "this server keeps no logs")
	}
	backend := r.URL.Query().Get("backend")
	if !follow && backend != "" && len(f.opts.Logs.Tail(backend, 1)) == 0 { // those that are gone, or never started, have left lines
		if _, err := f.opts.Registry.Backend(backend); err != nil {
			return err
		}
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	if !follow {
		writeLines(w, slices.Values(f.opts.Logs.Tail(backend, tail)), false)
		return nil
	}
	ctx, cancel := f.untilDrain(r)
	defer cancel()
	defer watch(identityOf(r), cancel)()
	writeLines(w, f.opts.Logs.Follow(ctx, backend, tail), true)
	return nil
}

func tailParam(r *http.Request) (int, error) {
	text := r.URL.Query().Get("tail")
	if text == "" {
		return defaultTail, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 || n > maxTail {
		return 0, serving.Errorf(serving.InvalidArgument, "parameter tail must be a number from 0 to %d, not %q", maxTail, text)
	}
	return n, nil
}

// writeLines writes until the lines end or the client stops to read. live
// lines, and the head before them, go out at once.
func writeLines(w http.ResponseWriter, lines iter.Seq[LogLine], live bool) {
	control := http.NewResponseController(w)
	if live {
		w.WriteHeader(http.StatusOK)
		_ = control.Flush() // a client that is gone shows at the next line
	}
	out := json.NewEncoder(w)
	for line := range lines {
		_ = control.SetWriteDeadline(time.Now().Add(writeTimeout)) // not every ResponseWriter has deadlines
		err := out.Encode(line)
		if err == nil && live {
			err = control.Flush()
		}
		if err != nil {
			return
		}
	}
}
