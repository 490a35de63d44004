// Package batch turns single queries into batches, opportunistically: whenever
// a replica is free it takes everything that waits, up to the maximum, in one
// call. At low load nothing waits; at high load batches fill by themselves.
//
// A [Batcher] owns one queue. Callers put queries in with [Batcher.Do] (wait
// for the answer) or [Batcher.Submit] (be called back); replicas, attached with
// [Batcher.Attach] or [Batcher.AttachFunc], are handed batches and answer them.
//
//	b := batch.New(batch.Options[int, int]{Limits: batch.Limits{MaxBatchSize: 32}})
//	b.AttachFunc(1, func(ctx context.Context, in []int) ([]int, error) { … })
//	out, err := b.Do(ctx, 41)
//
// # What it promises
//
//   - Every admitted query is answered exactly once, with its own answer.
//   - No replica is free while a query waits, unless a batch_wait_timeout holds it or
//     it has been learned that a short hold makes answers come sooner ([Departure]).
//   - A replica that wants it has its next batch before it is free: one that is
//     full, and that another replica may still get if it is free first.
//   - A batch holds one origin and one key, and never more than the maximum. The
//     group (origin and key) whose oldest query has waited longest leaves first,
//     so none starves; within a group the order is that of arrival.
//   - Where queries have priorities, higher ones leave first, and 1 batch in 16 begins
//     with the one that was left behind longest; where they have callers, each caller
//     gets its share of what leaves, by weight.
//   - A query whose context ended, or whose deadline passed, never runs.
//   - The queue is bounded in queries and in bytes; beyond it Submit refuses, and so it
//     does where a deadline cannot be met.
//   - A key, cost, size, split or join function that panics fails its own query,
//     a model that panics its batch; the queue lives on.
//   - Each answer says why its batch left when it did ([Trip]).
//
// The package does no I/O, starts no goroutine that it does not wait for, and
// reads time only through its [Clock], so that a simulator can drive the same
// code in virtual time.
package batch
