package python

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/shoalserve/shoal/internal/serving"
)

// blocked is a query that the model wait_for computes until release is called.
type blocked struct {
	wait    func() *serving.Call
	release func()
	fifo    string
}

// elsewhere releases the query in whatever worker computes it until it is answered:
// the one that it was sent to has ended, or is about to.
func (b blocked) elsewhere() *serving.Call {
	over := make(chan struct{})
	defer close(over)
	go func() { // ends when the query is answered
		for ; ; time.Sleep(5 * time.Millisecond) {
			select {
			case <-over:
				return
			default:
			}
			if f, err := os.OpenFile(b.fifo, os.O_WRONLY|syscall.O_NONBLOCK, 0); err == nil {
				_ = f.Close()
			}
		}
	}()
	return b.wait()
}

func submitBlocked(t *testing.T, b serving.Backend) blocked {
	t.Helper()
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	wait := submit(t, b, api(`{"fifo":`+strconv.Quote(fifo)+`}`))
	return blocked{wait: wait, fifo: fifo, release: func() {
		f, err := os.OpenFile(fifo, os.O_WRONLY, 0) // once the model has opened it
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}}
}

func mustPID(t *testing.T, c *serving.Call) int {
	t.Helper()
	if c.Err != nil {
		t.Fatal(c.Err)
	}
	pid, err := strconv.Atoi(string(c.Response.Body))
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

func TestABatchSentAheadIsComputedByTheReplicaThatIsFreeFirst(t *testing.T) {
	b := mustDeploy(t, "wait_for", serving.Config{MaxBatchSize: 2, NumReplicas: 2})
	first, second := submitBlocked(t, b), submitBlocked(t, b)
	third, fourth := submit(t, b, api(`{}`)), submit(t, b, api(`{}`))
	if s := b.Status(); s.Queued != 0 || s.Running != 4 {
		t.Fatalf("%d queries wait and %d run; the full batch was to be sent ahead", s.Queued, s.Running)
	}
	second.release()
	pid := mustPID(t, second.wait())
	if got := [2]int{mustPID(t, third()), mustPID(t, fourth())}; got != [2]int{pid, pid} {
		t.Errorf("the batch was computed by %v, not by the free replica %d", got, pid)
	}
	first.release()
	if other := mustPID(t, first.wait()); other == pid {
		t.Errorf("both replicas are %d", pid)
	}
	// The worker from which the batch was taken skips it and goes on.
	for range 4 {
		mustPID(t, submit(t, b, api(`{}`))())
	}
}

func TestABatchSentAheadToAWorkerThatDiesIsComputedByAnother(t *testing.T) {
	b := mustDeploy(t, "wait_for", serving.Config{MaxBatchSize: 2})
	pid := mustPID(t, submit(t, b, api(`{}`))())
	doomed := submitBlocked(t, b)
	third, fourth := submit(t, b, api(`{}`)), submit(t, b, api(`{}`))
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for _, c := range []*serving.Call{doomed.elsewhere(), third(), fourth()} {
		if got := mustPID(t, c); got == pid {
			t.Errorf("the dead worker %d answered", got)
		}
	}
}

func TestALargeBatchSentAheadDoesNotBlockItsCaller(t *testing.T) {
	b := mustDeploy(t, "wait_for", serving.Config{MaxBatchSize: 2})
	first := submitBlocked(t, b)
	large := func() *serving.Call {
		return api(`{"fifo":"","x":"` + string(make([]byte, 4<<20)) + `"}`) // not JSON: hurts itself alone
	}
	third, fourth := submit(t, b, large()), submit(t, b, large()) // return though the worker reads nothing
	first.release()
	mustPID(t, first.wait())
	for _, c := range []*serving.Call{third(), fourth()} {
		if _, ok := errors.AsType[*serving.ModelError](c.Err); !ok {
			t.Errorf("got %v, want the error of a payload that is not JSON", c.Err)
		}
	}
	mustPID(t, submit(t, b, api(`{}`))())
}
