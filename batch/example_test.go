package batch_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/shoalserve/shoal/batch"
)

// Nine queries at once: the first finds the model free and goes alone, the
// others wait for it and leave in batches.
func Example() {
	all := make(chan bool)
	b := batch.New(batch.Options[int, int]{Limits: batch.Limits{MaxBatchSize: 4}})
	replica := b.AttachFunc(1, func(_ context.Context, in []int) ([]int, error) {
		<-all // a model so slow that all nine have come when it is done
		fmt.Println("a batch of", len(in))
		out := make([]int, len(in))
		for i := range in {
			out[i] = in[i] + 1
		}
		return out, nil
	})
	for in := range 9 {
		err := b.Submit(&batch.Query[int, int]{In: in, Done: func(q *batch.Query[int, int]) {
			fmt.Println(q.In, "+ 1 =", q.Out)
		}})
		if err != nil {
			fmt.Println(err)
		}
	}
	close(all)
	_ = b.Drain(context.Background())
	_ = replica.Stop(context.Background())

	// Output:
	// a batch of 1
	// 0 + 1 = 1
	// a batch of 4
	// 1 + 1 = 2
	// 2 + 1 = 3
	// 3 + 1 = 4
	// 4 + 1 = 5
	// a batch of 4
	// 5 + 1 = 6
	// 6 + 1 = 7
	// 7 + 1 = 8
	// 8 + 1 = 9
}

func ExampleBatcher_Do() {
	b := batch.New(batch.Options[string, string]{})
	replica := b.AttachFunc(1, func(_ context.Context, in []string) ([]string, error) {
		out := make([]string, len(in))
		for i, s := range in {
			out[i] = strings.ToUpper(s)
		}
		return out, nil
	})

	fmt.Println(b.Do(context.Background(), "shoal"))

	// Finish what was accepted, then stop the model.
	_ = b.Drain(context.Background())
	_ = replica.Stop(context.Background())
	_, err := b.Do(context.Background(), "late")
	fmt.Println(err)

	// Output:
	// SHOAL <nil>
	// draining: no new queries are accepted
}

// A Key keeps apart what one call of the model cannot compute together: here,
// images of different sizes.
func ExampleOptions_key() {
	type image struct{ name, size string }
	b := batch.New(batch.Options[image, string]{
		Key: func(i image) string { return i.size },
	})
	done := func(*batch.Query[image, string]) {}
	for _, i := range []image{{"cat", "32x32"}, {"dog", "64x64"}, {"cow", "32x32"}} {
		_ = b.Submit(&batch.Query[image, string]{In: i, Done: done})
	}
	replica := b.AttachFunc(1, func(_ context.Context, in []image) ([]string, error) {
		fmt.Println(in)
		return make([]string, len(in)), nil
	})
	_ = b.Drain(context.Background())
	_ = replica.Stop(context.Background())

	// Output:
	// [{cat 32x32} {cow 32x32}]
	// [{dog 64x64}]
}

// A model may fail single queries of a batch; the others get their answers.
func ExampleItemErrors() {
	errNegative := errors.New("negative")
	b := batch.New(batch.Options[int, int]{})
	done := func(q *batch.Query[int, int]) { fmt.Println(q.In, q.Out, q.Err) }
	for _, in := range []int{4, -1, 9} {
		_ = b.Submit(&batch.Query[int, int]{In: in, Done: done})
	}
	replica := b.AttachFunc(1, func(_ context.Context, in []int) ([]int, error) {
		out, failed := make([]int, len(in)), make(batch.ItemErrors, len(in))
		for i, n := range in {
			if n < 0 {
				failed[i] = errNegative
			} else {
				out[i] = n * n
			}
		}
		return out, failed
	})
	_ = replica.Stop(context.Background())

	// Output:
	// 4 16 <nil>
	// -1 0 negative
	// 9 81 <nil>
}

// A query may carry several rows. Cost counts them, and a query with more rows
// than fit into one batch is split; its caller gets one answer.
func ExampleOptions_split() {
	b := batch.New(batch.Options[[]int, []int]{
		Limits: batch.Limits{MaxBatchSize: 4},
		Cost:   func(rows []int) int { return len(rows) },
		Split: func(rows []int, most int) (parts [][]int) {
			for len(rows) > most {
				parts, rows = append(parts, rows[:most]), rows[most:]
			}
			return append(parts, rows)
		},
		Join: func(outs [][]int) (joined []int, _ error) {
			for _, out := range outs {
				joined = append(joined, out...)
			}
			return joined, nil
		},
	})
	replica := b.AttachFunc(1, func(_ context.Context, in [][]int) ([][]int, error) {
		fmt.Println("computing", in)
		out := make([][]int, len(in))
		for i, rows := range in {
			for _, row := range rows {
				out[i] = append(out[i], 10*row)
			}
		}
		return out, nil
	})

	fmt.Println(b.Do(context.Background(), []int{1, 2, 3, 4, 5, 6}))
	_ = replica.Stop(context.Background())

	// Output:
	// computing [[1 2 3 4]]
	// computing [[5 6]]
	// [10 20 30 40 50 60] <nil>
}

// Submit returns at once and needs no goroutine for each query; Done is called
// with the answer, and with how the query fared.
func ExampleBatcher_Submit() {
	b := batch.New(batch.Options[string, int]{})
	var answered sync.WaitGroup
	for _, word := range []string{"plankton", "krill"} {
		answered.Add(1)
		err := b.Submit(&batch.Query[string, int]{
			In: word,
			Done: func(q *batch.Query[string, int]) {
				fmt.Printf("%s: %d, in a batch of %d that left because: %s\n", q.In, q.Out, q.Trip.BatchSize, q.Trip.Reason)
				answered.Done()
			},
		})
		if err != nil {
			fmt.Println("refused:", err)
			answered.Done()
		}
	}
	replica := b.AttachFunc(1, func(_ context.Context, in []string) ([]int, error) {
		out := make([]int, len(in))
		for i, word := range in {
			out[i] = len(word)
		}
		return out, nil
	})
	answered.Wait()
	_ = replica.Stop(context.Background())

	// Output:
	// plankton: 8, in a batch of 2 that left because: free
	// krill: 5, in a batch of 2 that left because: free
}
