//go:build race

package sim_test

// everyNth thins the grid out where the race detector makes it slow; it finds
// nothing in one goroutine.
const everyNth = 16
