//go:build !race

package sim_test

const everyNth = 1
