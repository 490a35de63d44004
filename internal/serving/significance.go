package serving

import "math"

// fisher is the one-sided p-value of Fisher's exact test (R. A. Fisher, Statistical
// Methods for Research Workers, 1934, § 21.02): how probable it is that at least
// so many of the errors are among the second's queries, if both fail equally often.
func fisher(errors1, n1, errors2, n2 uint64) float64 {
	errors, n := errors1+errors2, n1+n2
	p := 0.0
	for k := errors2; k <= min(errors, n2); k++ {
		if errors-k > n1 {
			continue
		}
		term := math.Exp(choose(errors, k) + choose(n-errors, n2-k) - choose(n, n2))
		p += term
		if term < p*1e-12 { // the rest adds nothing: the terms only fall from here
			break
		}
	}
	return min(1, p)
}

// exceeds is the one-sided p-value of a binomial test: how probable at least so
// many errors are among n queries that fail at a rate.
func exceeds(errors, n uint64, rate float64) float64 {
	if errors == 0 {
		return 1
	}
	if rate <= 0 {
		return 0
	}
	p := 0.0
	for k := errors; k <= n; k++ {
		term := math.Exp(choose(n, k) + float64(k)*math.Log(rate) + float64(n-k)*math.Log1p(-rate))
		p += term
		if term < p*1e-12 && float64(k) > rate*float64(n) {
			break
		}
	}
	return min(1, p)
}

// choose is the logarithm of the binomial coefficient.
func choose(n, k uint64) float64 {
	if k > n {
		return math.Inf(-1)
	}
	lgamma := func(x uint64) float64 { v, _ := math.Lgamma(float64(x) + 1); return v }
	return lgamma(n) - lgamma(k) - lgamma(n-k)
}

// significant is how improbable chance must make what is seen at the n-th look for
// it to count. The levels of all looks add up to 1 %, so that a canary as good
// as the rest is turned back once in a hundred times at most, however often it is
// looked at (the union bound; Σ 1/(n(n+1)) = 1). Half is for each of two tests.
func significant(look int) float64 { return 0.005 / (float64(look) * float64(look+1)) }
