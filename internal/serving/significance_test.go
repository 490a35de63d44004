package serving

import (
	"math"
	"testing"
)

func TestTestsOfSignificanceAgreeWithKnownValues(t *testing.T) {
	for _, test := range []struct {
		got, want float64
	}{
		// Fisher's tea: all four of four guessed is 1/70, three or more 17/70.
		{fisher(0, 4, 4, 4), 1.0 / 70},
		{fisher(1, 4, 3, 4), 17.0 / 70},
		{fisher(0, 4, 0, 4), 1},
		{exceeds(0, 10, 0.1), 1},
		{exceeds(1, 10, 0.1), 1 - math.Pow(0.9, 10)},
		{exceeds(10, 10, 0.1), 1e-10},
		{exceeds(1, 10, 0), 0},
	} {
		if math.Abs(test.got-test.want) > 1e-9 {
			t.Errorf("got %v, want %v", test.got, test.want)
		}
	}
	sum := 0.0
	for look := 1; look < 100_000; look++ {
		sum += 2 * significant(look)
	}
	if sum > 0.01 {
		t.Errorf("the levels add up to %v", sum)
	}
}
