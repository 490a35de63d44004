package tensor

import (
	"encoding/binary"
	"math"
	"strconv"
	"unsafe"
)

// literal is a JSON number as it is written.
type literal struct {
	end      int // where it ends in the body
	negative bool
	integer  bool   // neither fraction nor exponent
	digits   uint64 // all digits but leading zeros, as a number, when exact
	exponent int    // of ten: the value is digits × 10^exponent
	exact    bool   // digits and exponent are the whole truth
}

// scanNumber reads the grammar of a number at pos. ok is false if it is none; end
// is then where it went wrong.
func scanNumber(body []byte, pos int) (n literal, ok bool) {
	n.integer, n.exact = true, true
	if pos < len(body) && body[pos] == '-' {
		n.negative = true
		pos++
	}
	first := pos
	for ; pos < len(body) && isDigit(body[pos]); pos++ {
		n.digits = n.digits*10 + uint64(body[pos]-'0')
	}
	significant := pos - first
	if n.end = pos; significant == 0 {
		return n, false
	}
	if body[first] == '0' && significant > 1 {
		n.end = first + 1
		return n, false
	}
	if pos < len(body) && body[pos] == '.' {
		n.integer = false
		point := pos
		for pos++; pos < len(body) && isDigit(body[pos]); pos++ {
			n.digits = n.digits*10 + uint64(body[pos]-'0')
		}
		if n.end = pos; pos == point+1 {
			return n, false
		}
		n.exponent = point + 1 - pos
		significant -= n.exponent
	}
	// 19 digits always fit. Leading zeros count here: they are few, and the slow way is right too.
	n.exact = significant <= 19
	if pos < len(body) && body[pos]|0x20 == 'e' {
		ok = n.scanExponent(body, pos+1)
		return n, ok
	}
	n.end = pos
	return n, true
}

func (n *literal) scanExponent(body []byte, pos int) bool {
	n.integer = false
	sign := 1
	if pos < len(body) && (body[pos] == '+' || body[pos] == '-') {
		if body[pos] == '-' {
			sign = -1
		}
		pos++
	}
	first, e := pos, 0
	for ; pos < len(body) && isDigit(body[pos]); pos++ {
		if e = e*10 + int(body[pos]-'0'); e > 9999 {
			e, n.exact = 9999, false
		}
	}
	n.end = pos
	n.exponent += sign * e
	return pos > first
}

func isDigit(c byte) bool { return c-'0' <= 9 }

// number reads a number and appends it to the row.
func (l *list) number() error {
	n, ok := scanNumber(l.body, l.pos)
	if !ok {
		l.pos = n.end
		return l.unexpected("a digit")
	}
	if err := l.append(&n); err != nil {
		return err
	}
	l.pos = n.end
	return nil
}

// append converts a number to the datatype of the list.
func (l *list) append(n *literal) error {
	switch {
	case l.in.Dtype == 0:
		return l.appendUndeclared(n)
	case l.kind == Float32:
		f := n.float32(l.body[l.pos:n.end])
		l.row.buf = binary.LittleEndian.AppendUint32(l.row.buf, math.Float32bits(f))
		return l.checkFinite(n, float64(f))
	case l.kind.isFloat():
		return l.appendFloat(n)
	case l.kind == Bool:
		return l.fail("%s, but the model takes bool: true or false", l.shown(n))
	}
	return l.appendInteger(n)
}

// appendFloat appends to a list of float64 or float16.
func (l *list) appendFloat(n *literal) error {
	f := n.float64(l.body[l.pos:n.end])
	if l.kind == Float64 {
		l.row.buf = binary.LittleEndian.AppendUint64(l.row.buf, math.Float64bits(f))
		return l.checkFinite(n, f)
	}
	half := toFloat16(f)
	l.row.buf = binary.LittleEndian.AppendUint16(l.row.buf, half)
	return l.checkFinite(n, fromFloat16(half))
}

func (l *list) checkFinite(n *literal, f float64) error {
	if math.IsInf(f, 0) {
		return l.beyondRange(n)
	}
	return nil
}

// appendInteger appends to a list of a declared integer type.
func (l *list) appendInteger(n *literal) error {
	if !n.integer {
		return l.fail("%s has a fraction or an exponent, but the model takes %s", l.shown(n), l.kind)
	}
	i, ok := n.int64()
	if l.kind == Uint64 && !n.negative {
		var u uint64
		u, ok = n.uint64(l.body[l.pos:n.end])
		i = int64(u)
	} else if least, most := intRange(l.kind); i < least || i > most {
		ok = false
	}
	if !ok {
		return l.beyondRange(n)
	}
	l.row.buf = appendBits(l.row.buf, l.kind.Size(), uint64(i))
	return nil
}

// appendUndeclared lets the number choose: integers are int64 as long as there are
// no others in the list, which then is one of float64.
func (l *list) appendUndeclared(n *literal) error {
	if l.kind == Bool {
		return l.fail("%s among booleans", l.shown(n))
	}
	if n.integer {
		i, ok := n.int64()
		switch {
		case ok && l.kind != Float64:
			l.kind = Int64
			l.row.buf = binary.LittleEndian.AppendUint64(l.row.buf, uint64(i))
			return nil
		case ok:
			l.row.buf = binary.LittleEndian.AppendUint64(l.row.buf, math.Float64bits(float64(i)))
			return nil
		case l.beyond == 0 && !l.fractions():
			l.beyond, l.beyondIndex = l.pos+1, l.index()
		}
	} else {
		l.beyond = 0
	}
	l.toFloat64()
	return l.appendFloat(n)
}

// fractions reports whether a number before this one has made the list float64.
func (l *list) fractions() bool { return l.kind == Float64 && l.beyond == 0 }

// toFloat64 converts the integers that are there already.
func (l *list) toFloat64() {
	if l.kind == Int64 {
		for data := l.row.buf[l.start:]; len(data) > 0; data = data[8:] {
			i := int64(binary.LittleEndian.Uint64(data))
			binary.LittleEndian.PutUint64(data, math.Float64bits(float64(i)))
		}
	}
	l.kind = Float64
}

// int64 is the integer; ok is false beyond the range.
func (n *literal) int64() (i int64, ok bool) {
	switch {
	case !n.exact:
		return 0, false
	case n.negative:
		return -int64(n.digits), n.digits <= 1<<63
	}
	return int64(n.digits), n.digits < 1<<63
}

// uint64 is the integer, which is not negative; text is how it is written.
func (n *literal) uint64(text []byte) (uint64, bool) {
	if n.exact {
		return n.digits, true
	}
	u, err := strconv.ParseUint(borrow(text), 10, 64)
	return u, err == nil
}

// intRange is the least and the largest value of an integer type; for Uint64 the
// largest that is an int64.
func intRange(d Dtype) (least, most int64) {
	bits := uint(8 * d.Size())
	switch {
	case d == Uint64:
		return 0, math.MaxInt64
	case d.isUnsigned():
		return 0, 1<<bits - 1
	}
	return -1 << (bits - 1), 1<<(bits-1) - 1
}

// powers are the powers of ten that float64 holds exactly.
var powers = [...]float64{
	1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11,
	1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22,
}

// quick is the value of a short decimal. Both factors are exact in float64, so the
// one operation rounds correctly (W. D. Clinger, How to Read Floating Point Numbers
// Accurately, PLDI 1990).
func (n *literal) quick() (f float64, ok bool) {
	if !n.exact || n.digits > 1<<53 || n.exponent < -22 || n.exponent > 22 {
		return 0, false
	}
	f = float64(n.digits)
	if n.exponent < 0 {
		f /= powers[-n.exponent]
	} else {
		f *= powers[n.exponent]
	}
	if n.negative {
		f = -f
	}
	return f, true
}

// float64 is the nearest float64; text is how the number is written. It is infinite
// beyond the range.
func (n *literal) float64(text []byte) float64 {
	if f, ok := n.quick(); ok {
		return f
	}
	f, _ := strconv.ParseFloat(borrow(text), 64) // its error is the range
	return f
}

// float32 is the nearest float32, rounded once.
func (n *literal) float32(text []byte) float32 {
	if f, ok := n.quick(); ok {
		if f32, ok := quick32(f); ok {
			return f32
		}
	}
	f, _ := strconv.ParseFloat(borrow(text), 32) // its error is the range
	return float32(f)
}

// quick32 rounds a decimal's nearest float64 to its nearest float32. That may go
// wrong only if the float64 lies just between two float32, for then the decimal may
// lie on either side; those below the normal range are not looked at.
func quick32(f float64) (float32, bool) {
	const between, below = 1 << 28, 1<<29 - 1
	if size := math.Abs(f); math.Float64bits(f)&below == between || (f != 0 && (size < 0x1p-126 || size > math.MaxFloat32)) {
		return 0, false
	}
	return float32(f), true
}

func (l *list) beyondRange(n *literal) error {
	return l.fail("%s is beyond the range of %s", l.shown(n), l.kind)
}

// shown is the number as it is written.
func (l *list) shown(n *literal) string { return shortened(string(l.body[l.pos:n.end])) }

// borrow makes a string of bytes without a copy, for a callee that does not keep it.
func borrow(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }
