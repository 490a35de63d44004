package tensor

import "math"

// maxFloat16 is where rounding to float16 gives infinity: half a step above the
// largest, 65504.
const maxFloat16 = 65520

// toFloat16 rounds to the nearest float16, ties to even. What is not less than
// maxFloat16 becomes infinity.
func toFloat16(f float64) uint16 {
	bits := math.Float64bits(f)
	sign := uint16(bits >> 48 & 0x8000)
	exp := int(bits>>52&0x7ff) - 1023
	frac := bits & (1<<52 - 1)
	switch {
	case exp == 1024 && frac != 0:
		return sign | 0x7e00 // NaN
	case exp > 15:
		return sign | 0x7c00
	case exp >= -14:
		// A carry out of the fraction goes on into the exponent, as it should.
		return sign | uint16(roundShift(uint64(exp+15)<<52|frac, 42))
	case exp >= -25:
		return sign | uint16(roundShift(1<<52|frac, uint(28-exp)))
	}
	return sign
}

// roundShift is v>>n, rounded to nearest, ties to even.
func roundShift(v uint64, n uint) uint64 {
	q, rest, half := v>>n, v&(1<<n-1), uint64(1)<<(n-1)
	if rest > half || (rest == half && q&1 == 1) {
		q++
	}
	return q
}

// fromFloat16 is exact.
func fromFloat16(h uint16) float64 {
	sign := 1.0
	if h&0x8000 != 0 {
		sign = -1
	}
	frac := float64(h & 0x3ff)
	switch exp := int(h >> 10 & 0x1f); exp {
	case 0:
		return math.Copysign(math.Ldexp(frac, -24), sign)
	case 31:
		if frac != 0 {
			return math.NaN()
		}
		return math.Inf(int(sign))
	default:
		return sign * math.Ldexp(1+frac/1024, exp-15)
	}
}
