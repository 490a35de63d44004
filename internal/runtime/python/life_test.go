package python

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/shoalserve/shoal/batch"
	"github.com/shoalserve/shoal/internal/serving"
)

func second(n float64) serving.Duration { return serving.Duration(n * float64(time.Second)) }

// replaced waits until the one replica of b has another process than pid.
func replaced(t *testing.T, b serving.Backend, pid int) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		if r := b.Status().Replicas[0]; r.State == serving.StateReady && r.PID != pid {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the worker was not replaced: %+v", b.Status())
		}
	}
}

func TestABatchBeyondItsTimeoutFailsAndItsWorkerIsReplaced(t *testing.T) {
	for _, how := range []string{"hang", "ignore"} { // ignore is killed after killAfter
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			b := mustDeploy(t, "stubborn", serving.Config{MaxBatchSize: 2, BatchTimeout: second(4)})
			pid := mustPID(t, submit(t, b, api(`{}`))())
			stuck := submit(t, b, api(`{"how":"`+how+`"}`))
			ahead := []func() *serving.Call{submit(t, b, api(`{}`)), submit(t, b, api(`{}`))}
			if err := stuck().Err; serving.Describe(err).Code != serving.BatchTimeout || !strings.Contains(err.Error(), "batch_timeout (4s)") {
				t.Errorf("the query that hung got %v", err)
			}
			for _, wait := range ahead {
				if got := mustPID(t, wait()); got == pid {
					t.Errorf("the worker that hung answered, or no other did: %d", got)
				}
			}
			if syscall.Kill(pid, 0) == nil {
				t.Errorf("the worker %d lives on", pid)
			}
			if got := b.Status().RestartReasons; got[serving.ReasonBatchTimeout] == 0 {
				t.Errorf("restarts: %v", got)
			}
		})
	}
}

func TestOnlyTheWorkerThatIsStuckIsReplaced(t *testing.T) {
	b := mustDeploy(t, "stubborn", serving.Config{MaxBatchSize: 1, NumReplicas: 2, BatchTimeout: second(5)})
	stuck := submit(t, b, api(`{"how":"hang"}`))
	other := mustPID(t, submit(t, b, api(`{}`))())
	if err := stuck().Err; serving.Describe(err).Code != serving.BatchTimeout {
		t.Errorf("the query that hung got %v", err)
	}
	still := false
	for _, r := range b.Status().Replicas {
		still = still || r.PID == other && r.State == serving.StateReady && r.Restarts == 0
	}
	if !still {
		t.Errorf("the other worker (%d) is gone: %+v", other, b.Status().Replicas)
	}
}

func TestABatchThatIsWrittenWhileItsWorkerHangsFailsOnce(t *testing.T) {
	b := mustDeploy(t, "stubborn", serving.Config{MaxBatchSize: 1, BatchTimeout: second(4)})
	pid := mustPID(t, submit(t, b, api(`{}`))())
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	// Larger than the socket's buffers, and not for shared memory: nobody reads it.
	large := submitted(b, api(`{"how":"no","x":"`+strings.Repeat("x", 4<<20)+`"}`))
	if err := (<-large).Err; serving.Describe(err).Code != serving.BatchTimeout {
		t.Errorf("got %v", err)
	}
	if got := mustPID(t, submit(t, b, api(`{}`))()); got == pid {
		t.Errorf("answered by %d, which is stopped", got)
	}
}

// submitted submits from a goroutine of its own: Submit may write to the worker.
func submitted(b serving.Backend, c *serving.Call) <-chan *serving.Call {
	done := make(chan *serving.Call, 1)
	c.Backend, c.Done = b, func(c *serving.Call) { done <- c }
	go func() { // ends with the submit
		if err := b.Submit(c); err != nil {
			c.Err = err
			done <- c
		}
	}()
	return done
}

func TestAnIdleWorkerThatGivesNoSignOfLifeIsReplaced(t *testing.T) {
	for name, c := range map[string]struct {
		model  string
		config serving.Config
		harm   func(t *testing.T, b serving.Backend, pid int)
	}{
		"stopped": {"stubborn", serving.Config{}, func(t *testing.T, _ serving.Backend, pid int) {
			if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
		}},
		"its event loop is blocked": {"blocks_its_loop", serving.Config{MaxConcurrentBatches: 4}, func(t *testing.T, b serving.Backend, _ int) {
			mustPID(t, submit(t, b, api(`{"block":true}`))())
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c.config.HeartbeatTimeout = second(4)
			b := mustDeploy(t, c.model, c.config)
			pid := mustPID(t, submit(t, b, api(`{}`))())
			c.harm(t, b, pid)
			replaced(t, b, pid)
			if got := mustPID(t, submit(t, b, api(`{}`))()); got == pid {
				t.Errorf("answered by %d, which is stuck", got)
			}
			if got := b.Status().RestartReasons; got[serving.ReasonHeartbeat] == 0 {
				t.Errorf("restarts: %v", got)
			}
		})
	}
}

func TestAWorkerThatWasStoppedWhileItComputesIsReplaced(t *testing.T) {
	b := mustDeploy(t, "wait_for", serving.Config{MaxBatchSize: 1, HeartbeatTimeout: second(4)})
	pid := mustPID(t, submit(t, b, api(`{}`))())
	doomed := submitBlocked(t, b)
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if other := mustPID(t, doomed.elsewhere()); other == pid {
		t.Errorf("the worker that was stopped, %d, answered", pid)
	}
	replaced(t, b, pid)
}

func TestWorkersThatAreWellAnswerTheirHeartbeats(t *testing.T) {
	for _, model := range []string{"stubborn", "blocks_its_loop"} {
		for _, slots := range []int{1, 3} {
			t.Run(fmt.Sprint(model, slots), func(t *testing.T) {
				t.Parallel()
				w := bareWorker(t, model, slots)
				batcher := batch.New(batch.Options[*serving.Call, serving.Response]{})
				replica := batcher.Attach(slots, w.Run)
				// Before the first batch there is no event loop, after it there is.
				for range 2 {
					for range 3 { // each but the first is sent once the one before was answered
						sinceTheLast(t, w)
					}
					if _, err := batcher.Do(t.Context(), api(`{}`)); err != nil {
						t.Fatal(err)
					}
				}
				<-replica.Detach()
			})
		}
	}
}

// sinceTheLast waits until the worker owes no sign of life and asks for another.
func sinceTheLast(t *testing.T, w *worker) {
	t.Helper()
	for deadline := time.Now().Add(patience); !w.Ping().IsZero(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("a PING was not answered")
		}
	}
}

// bareWorker starts a worker of a model in testdata that nobody watches.
func bareWorker(t *testing.T, model string, slots int) *worker {
	t.Helper()
	sdk, err := filepath.Abs("../../../python")
	if err != nil {
		t.Fatal(err)
	}
	r := &runtime{spec: file(model), opts: NewDeployer(Options{SDKDir: sdk}).opts}
	i, err := r.Start(t.Context(), serving.ReplicaSpec{Backend: "m", Config: serving.Config{MaxBatchSize: 4, MaxConcurrentBatches: slots}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := i.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return i.(*worker)
}

func TestStopped(t *testing.T) {
	sleep := exec.Command("sleep", "60")
	if err := sleep.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = sleep.Process.Kill()
		_ = sleep.Wait() // it was killed
	}()
	if stopped(sleep.Process.Pid) {
		t.Error("a process that sleeps passes for stopped")
	}
	if err := sleep.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(patience); !stopped(sleep.Process.Pid); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("a stopped process does not pass for stopped, pid " + strconv.Itoa(sleep.Process.Pid))
		}
	}
	if stopped(1 << 30) {
		t.Error("a process that does not exist passes for stopped")
	}
}

func TestAnIdleBackendGivesItsProcessesBackAndHoldsTheFirstQueries(t *testing.T) {
	b := mustDeploy(t, "stubborn", serving.Config{MaxBatchSize: 8, IdleTimeout: second(0.3)})
	pid := mustPID(t, submit(t, b, api(`{}`))())
	for deadline := time.Now().Add(patience); b.Status().State != serving.StateIdle || syscall.Kill(pid, 0) == nil; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("it did not become idle: %+v", b.Status())
		}
	}
	var waits []func() *serving.Call
	for range 200 {
		waits = append(waits, submit(t, b, api(`{}`)))
	}
	for _, wait := range waits {
		if got := mustPID(t, wait()); got == pid {
			t.Errorf("answered by %d, which is gone", got)
		}
	}
}
