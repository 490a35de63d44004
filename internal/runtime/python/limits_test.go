//go:build linux

package python

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/shoalserve/shoal/internal/serving"
)

func TestAWorkerThatTakesTooMuchMemoryGetsAMemoryErrorAndLivesOn(t *testing.T) {
	b := mustDeploy(t, "greedy", serving.Config{MaxBatchSize: 1, MemoryLimit: 512 << 20})
	pid := mustPID(t, submit(t, b, api(`{"mib":16}`))())
	c := submit(t, b, api(`{"mib":2048}`))()
	failure, ok := errors.AsType[*serving.ModelError](c.Err)
	if !ok || failure.Type != "MemoryError" {
		t.Errorf("got %v", c.Err)
	}
	if got := mustPID(t, submit(t, b, api(`{"mib":16}`))()); got != pid {
		t.Errorf("the worker %d was replaced by %d", pid, got)
	}
}

func TestAWorkerThatUsesUpItsCPUTimeIsReplaced(t *testing.T) {
	b := mustDeploy(t, "greedy", serving.Config{MaxBatchSize: 1, CPUTimeLimit: second(3)})
	pid := mustPID(t, submit(t, b, api(`{}`))())
	if err := submit(t, b, api(`{"spin":true}`))().Err; err == nil {
		t.Error("it computed for ever, and answered")
	}
	if got := mustPID(t, submit(t, b, api(`{}`))()); got == pid {
		t.Errorf("answered by %d, whose time is over", got)
	}
	// A worker that is slow to be ended is being replaced by then: its time is nearly over.
	if got := b.Status().RestartReasons; got[serving.ReasonDied]+got[serving.ReasonRecycle] == 0 {
		t.Errorf("restarts: %v", got)
	}
}

func TestAWorkerMayHaveOnlySoManyOpenFiles(t *testing.T) {
	b := mustDeploy(t, "greedy", serving.Config{MaxBatchSize: 1, OpenFilesLimit: 64})
	c := submit(t, b, api(`{"files":200}`))()
	if failure, ok := errors.AsType[*serving.ModelError](c.Err); !ok || !strings.Contains(failure.Message, "Too many open files") {
		t.Errorf("got %v", c.Err)
	}
}

func TestALimitThatCannotBeSetIsSaid(t *testing.T) {
	_, err := deploy(t, file("greedy"), serving.Config{OpenFilesLimit: 1 << 40}, Options{})
	if load, ok := errors.AsType[*serving.LoadError](err); !ok || !strings.Contains(load.Message, "open_files_limit") {
		t.Errorf("got %v", err)
	}
}

func TestAWorkerIsRecycledBeforeItsCPUTimeIsUsedUp(t *testing.T) {
	b := mustDeploy(t, "greedy", serving.Config{MaxBatchSize: 1, CPUTimeLimit: second(10)})
	pid := mustPID(t, submit(t, b, api(`{}`))())
	next := pid
	for range 16 { // nearly all: the rest must do until a fresh one is there
		if next == pid {
			next = mustPID(t, submit(t, b, api(`{"busy":0.5}`))())
		}
	}
	for next == pid {
		time.Sleep(50 * time.Millisecond)
		next = mustPID(t, submit(t, b, api(`{}`))())
	}
	if got := b.Status().RestartReasons; got[serving.ReasonRecycle] != 1 || got[serving.ReasonDied] != 0 {
		t.Errorf("restarts: %v", got)
	}
}

func TestAWorkerIsRecycledAfterSoManyBatchesAndAnswersOn(t *testing.T) {
	b := mustDeploy(t, "greedy", serving.Config{MaxBatchSize: 1, RecycleAfter: 20})
	pids := make(map[int]int)
	for len(pids) < 3 {
		pids[mustPID(t, submit(t, b, api(`{}`))())]++
	}
	if got := b.Status().RestartReasons; got[serving.ReasonDied] != 0 {
		t.Errorf("restarts: %v", got)
	}
}
