package python

import (
	"fmt"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/shoalserve/shoal/batch"
	"github.com/shoalserve/shoal/internal/serving"
)

// ways in which the model poison fails, and the code of the error that the query
// which asked for it gets.
var ways = map[string]serving.Code{
	"raise": "ValueError", "memory": "MemoryError", "limit": "MemoryError",
	"exit": serving.WorkerDied, "abort": serving.WorkerDied, "kill": serving.WorkerDied, "segfault": serving.WorkerDied,
}

// fill submits as many queries to the model poison as fill a batch. One of them
// asks for trouble.
func fill(t *testing.T, b serving.Backend, guilty int, how string) []*serving.Call {
	t.Helper()
	var waits []func() *serving.Call
	for i := range b.Config().MaxBatchSize {
		kwargs := `{}`
		if i == guilty {
			kwargs = fmt.Sprintf(`{"how":%q}`, how)
		}
		waits = append(waits, submit(t, b, api(kwargs)))
	}
	var calls []*serving.Call
	for _, wait := range waits {
		calls = append(calls, wait())
	}
	return calls
}

func TestOneQueryHurtsItselfAloneInWhateverWay(t *testing.T) {
	for how, code := range ways {
		for replicas := 1; replicas <= 2; replicas++ {
			if replicas == 2 && how != "raise" && how != "segfault" {
				continue // the ways to die differ no more
			}
			t.Run(fmt.Sprintf("%s with %d", how, replicas), func(t *testing.T) {
				b := mustDeploy(t, "poison", serving.Config{
					MaxBatchSize: 8, NumReplicas: replicas, BatchWaitTimeout: serving.Duration(30 * time.Second),
				})
				const guilty = 5
				for i, c := range fill(t, b, guilty, how) {
					switch {
					case i != guilty && c.Err != nil:
						t.Errorf("the innocent query %d got %v", i, c.Err)
					case i == guilty && serving.Describe(c.Err).Code != code:
						t.Errorf("the guilty query got %v, want %s", c.Err, code)
					}
				}
				died := code == serving.WorkerDied
				if s := b.Status(); s.Stats.Isolated != 1 || (s.Stats.Poison == 1) != died || (s.Restarts > 0) != died || s.Restarts > 4 {
					t.Errorf("%d batches were isolated, %d queries refused, %d replicas restarted", s.Stats.Isolated, s.Stats.Poison, s.Restarts)
				}
				for _, c := range fill(t, b, -1, "") {
					if c.Err != nil {
						t.Errorf("a query after that got %v", c.Err)
					}
				}
			})
		}
	}
}

func TestWithOnBatchErrorFailTheWholeBatchFails(t *testing.T) {
	for _, how := range []string{"raise", "exit"} {
		t.Run(how, func(t *testing.T) {
			b := mustDeploy(t, "poison", serving.Config{
				MaxBatchSize: 4, BatchWaitTimeout: serving.Duration(30 * time.Second), OnBatchError: serving.FailAll,
			})
			for i, c := range fill(t, b, 1, how) {
				if serving.Describe(c.Err).Code != ways[how] {
					t.Errorf("query %d got %v", i, c.Err)
				}
			}
			if s := b.Status().Stats; s.Batches != 1 || s.Isolated != 0 {
				t.Errorf("%d batches were computed, %d isolated", s.Batches, s.Isolated)
			}
		})
	}
}

func TestAWrongAnswerCountIsIsolated(t *testing.T) {
	b := mustDeploy(t, "wrong_count", serving.Config{MaxBatchSize: 2, BatchWaitTimeout: serving.Duration(30 * time.Second)})
	first, second := submit(t, b, web("/")), submit(t, b, web("/"))
	for _, c := range []*serving.Call{first(), second()} {
		if c.Err == nil || !strings.Contains(c.Err.Error(), "returned 2 answers for a batch of 1") {
			t.Errorf("got %v", c.Err)
		}
	}
}

func TestAQueryThatIsSentToADeadWorkerIsNotItsKiller(t *testing.T) {
	dead, well := bareWorker(t, "wait_for", 1), bareWorker(t, "wait_for", 1)
	b := batch.New(batch.Options[*serving.Call, serving.Response]{})
	attached := b.Attach(1, dead.Run)
	if err := syscall.Kill(dead.PID(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-dead.Exited() // nobody has told the batcher
	type callQuery = batch.Query[*serving.Call, serving.Response]
	done := make(chan *callQuery, 1)
	if err := b.Submit(&callQuery{In: api(`{}`), Done: func(q *callQuery) { done <- q }}); err != nil {
		t.Fatal(err)
	}
	attached.Detach()
	other := b.Attach(1, well.Run)
	if err := dead.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	q := <-done
	if q.Err != nil || string(q.Out.Body) != strconv.Itoa(well.PID()) || q.Trip.Attempts != 1 {
		t.Errorf("got %s, %v, in %d attempts", q.Out.Body, q.Err, q.Trip.Attempts)
	}
	if s := b.Stats(); s.Returned != 1 || s.Isolated != 0 {
		t.Errorf("%d batches came back, %d were isolated", s.Returned, s.Isolated)
	}
	<-other.Detach()
}
