package batch_test

import (
	"context"
	"slices"
	"strconv"
	"sync"
	"testing"

	"github.com/shoalserve/shoal/batch"
)

// The memory of batches and calls is used again. What a model was given and
// what a caller was answered must stay as they were all the same; with -race,
// this also shows that nobody still reads a batch that is used again.
func TestWhatWasGivenAndAnsweredIsNotUsedAgain(t *testing.T) {
	const callers, each = 16, 300
	var mu sync.Mutex
	var given, copied [][]string
	var members int
	b := batch.New(options{
		Limits: batch.Limits{MaxBatchSize: 8},
		OnBatch: func(b *batch.Batch[string, string]) {
			mu.Lock()
			defer mu.Unlock()
			for _, q := range b.Queries {
				if q.Out != "answer to "+q.In || q.Trip.BatchID != b.ID || q.Trip.BatchSize != len(b.Queries) {
					t.Errorf("batch %d of %d has a query %q with answer %q and %+v", b.ID, len(b.Queries), q.In, q.Out, q.Trip)
				}
			}
			members += len(b.Queries)
		},
	})
	// Two slots, so that one batch is formed while another is answered.
	r := b.AttachFunc(2, func(_ context.Context, in []string) ([]string, error) {
		out := make([]string, len(in))
		for i := range in {
			out[i] = "answer to " + in[i]
		}
		mu.Lock()
		given, copied = append(given, in), append(copied, slices.Clone(in))
		mu.Unlock()
		return out, nil
	})
	var calling sync.WaitGroup
	for caller := range callers {
		calling.Go(func() {
			for i := range each {
				in := strconv.Itoa(caller*each + i)
				if out, err := b.Do(context.Background(), in); err != nil || out != "answer to "+in {
					t.Errorf("query %s got %q, %v", in, out, err)
				}
			}
		})
	}
	calling.Wait()
	if err := r.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	if members != callers*each {
		t.Errorf("%d queries were in batches, want %d", members, callers*each)
	}
	for i := range given {
		if !slices.Equal(given[i], copied[i]) {
			t.Fatalf("a batch's inputs were %q, and became %q after its end", copied[i], given[i])
		}
	}
}

// A caller that leaves while its query is computed must not have its call used
// again: its replica still writes to it.
func TestACallThatWasLeftIsNotUsedAgain(t *testing.T) {
	b := batch.New(options{Limits: batch.Limits{MaxBatchSize: 4}})
	began, release := make(chan struct{}), make(chan struct{})
	r := b.AttachFunc(1, func(_ context.Context, in []string) ([]string, error) {
		if in[0] == "slow" {
			close(began)
			<-release
		}
		return in, nil
	})
	ctx, cancel := context.WithCancel(t.Context())
	left := make(chan error, 1)
	go func() {
		_, err := b.Do(ctx, "slow")
		left <- err
	}()
	<-began
	cancel()
	if err := <-left; err == nil {
		t.Error("the caller that left got an answer")
	}
	var calling sync.WaitGroup
	for i := range 32 { // these wait behind the slow one, each in a call of its own
		calling.Go(func() {
			in := strconv.Itoa(i)
			if out, err := b.Do(context.Background(), in); err != nil || out != in {
				t.Errorf("query %s got %q, %v", in, out, err)
			}
		})
	}
	close(release)
	calling.Wait()
	if err := r.Stop(t.Context()); err != nil {
		t.Error(err)
	}
}
