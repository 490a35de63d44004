package tensor

import (
	"encoding/binary"
	"math"
)

// burst reads what most lists consist of, short numbers with a comma right after
// them and at most one space behind that, in one tight loop. It stops before
// whatever is not like that, at the beginning of an element, and leaves it to the
// general way, which gives the same values; so it may be as narrow as it likes.
func (l *list) burst() {
	if l.depth == 0 || l.depth != l.leaf || l.kind == 0 || l.kind == Bool || l.kind == Float16 || l.beyond > 0 {
		return
	}
	l.space()
	level := l.depth - 1
	room := math.MaxInt // elements that may follow with a comma after them
	if n := l.shape[level]; n != 0 {
		room = n - 1 - l.count[level]
	}
	body, pos, out := l.body, l.pos, l.row.buf
	integers := !l.kind.isFloat()
	for ; room > 0; room-- {
		n, ok := shortNumber(body, pos)
		if !ok || (integers && !n.integer) {
			break
		}
		text := body[pos:n.end]
		if integers { //nolint:gocritic // a break in a switch would leave the switch
			i, _ := n.int64() // it is short
			if least, most := intRange(l.kind); i < least || i > most {
				break
			}
			out = appendBits(out, l.kind.Size(), uint64(i))
		} else if l.kind == Float64 {
			if n.integer && n.negative && n.digits == 0 && l.in.Dtype == 0 {
				break // -0 is an integer there
			}
			out = binary.LittleEndian.AppendUint64(out, math.Float64bits(n.float64(text)))
		} else {
			out = binary.LittleEndian.AppendUint32(out, math.Float32bits(n.float32(text)))
		}
		if pos = n.end + 1; pos < len(body) && body[pos] == ' ' {
			pos++
		}
		l.count[level]++
	}
	l.pos, l.row.buf = pos, out
}

// shortNumber reads a number of at most 18 digits without an exponent, that has a
// comma right after it.
func shortNumber(body []byte, pos int) (n literal, ok bool) {
	if pos < len(body) && body[pos] == '-' {
		n.negative = true
		pos++
	}
	start := pos
	var digits uint64
	for pos < len(body) && isDigit(body[pos]) {
		digits = digits*10 + uint64(body[pos]-'0')
		pos++
	}
	whole := pos - start
	if whole == 0 || pos >= len(body) || (body[start] == '0' && whole > 1) {
		return n, false
	}
	n.integer = true
	if body[pos] == '.' {
		n.integer = false
		point := pos
		pos++
		for pos < len(body) && isDigit(body[pos]) {
			digits = digits*10 + uint64(body[pos]-'0')
			pos++
		}
		n.exponent = point + 1 - pos
		if n.exponent == 0 || pos >= len(body) {
			return n, false
		}
	}
	n.digits, n.exact, n.end = digits, true, pos
	return n, body[pos] == ',' && whole-n.exponent <= 18
}
