package tensor

import (
	"math"
	"testing"
)

func TestEveryFloat16ComesBack(t *testing.T) {
	for n := range 1 << 16 {
		h := uint16(n)
		f := fromFloat16(h)
		if math.IsNaN(f) {
			if got := fromFloat16(toFloat16(f)); !math.IsNaN(got) {
				t.Fatalf("%#x is NaN, and comes back as %v", h, got)
			}
		} else if got := toFloat16(f); got != h {
			t.Fatalf("%#x is %v, and comes back as %#x", h, f, got)
		}
	}
}

// Between two neighbours the nearer is chosen, and the even one in the middle.
func TestFloat16RoundsToTheNearest(t *testing.T) {
	for h := range uint16(0x7bff) {
		low, high := fromFloat16(h), fromFloat16(h+1)
		middle := (low + high) / 2
		even := h + h&1
		for _, c := range []struct {
			f    float64
			want uint16
		}{{middle, even}, {math.Nextafter(middle, low), h}, {math.Nextafter(middle, high), h + 1}, {-middle, even | 0x8000}} {
			if got := toFloat16(c.f); got != c.want {
				t.Fatalf("%v: %#x, want %#x", c.f, got, c.want)
			}
		}
	}
	if toFloat16(maxFloat16) != 0x7c00 || toFloat16(math.Nextafter(maxFloat16, 0)) != 0x7bff || toFloat16(1e300) != 0x7c00 || toFloat16(5e-324) != 0 {
		t.Error("the ends of the range")
	}
}
