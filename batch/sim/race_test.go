//go:build race

package sim_test

// The race detector makes simulations slow, and finds nothing in one goroutine:
// a sample is enough.
const (
	everyNth = 40
	checks   = "20"
)
