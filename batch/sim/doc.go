// Package sim simulates a [batch.Batcher] in virtual time: the real code, driven by
// a clock that jumps from event to event, with loads and service times drawn
// from seeded random numbers. It is how departure policies are compared.
//
// Everything happens in one goroutine, and equal scenarios give equal results.
package sim
