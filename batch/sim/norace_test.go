//go:build !race

package sim_test

const (
	everyNth = 1 // of the grid's scenarios
	checks   = "100"
)
