package tensor

// numbers reads a number, a boolean, or nested lists of them, into the row's
// buffer. Lists must be equally long at each depth.
func (d *decoder) numbers() error {
	l := list{decoder: d, leaf: -1, start: len(d.row.buf), kind: d.in.Dtype}
	for {
		l.burst()
		if d.space(); d.peek() == '[' {
			if err := l.open(); err != nil {
				return err
			}
			continue
		}
		if err := l.element(); err != nil {
			return err
		}
		if more, err := l.close(); err != nil || !more {
			if err != nil {
				return err
			}
			return l.finish()
		}
	}
}

// list is the state of a value that is being read.
type list struct {
	*decoder
	start int   // of the elements in the row's buffer
	kind  Dtype // of the elements; 0 before the first of an undeclared input
	// beyond is where an undeclared input has an integer beyond int64, plus one:
	// an error unless another element makes all of them float64.
	beyond      int
	beyondIndex []int

	depth int // lists around the element
	leaf  int // the depth of all elements; -1 before the first
	count [MaxDims]int
	shape [MaxDims]int // 0: the first list at that depth has not ended yet
}

// open enters a list.
func (l *list) open() error {
	switch l.depth {
	case l.leaf:
		return l.fail("a list where the elements before it are single values; lists must be equally deep")
	case MaxDims:
		return l.fail("lists in lists in more than %d levels", MaxDims)
	}
	l.pos++
	l.space()
	if l.peek() == ']' {
		return l.fail("an empty list")
	}
	l.count[l.depth] = 0
	l.depth++
	return nil
}

// close reads what follows an element. more is false after the last of all.
func (l *list) close() (more bool, err error) {
	for l.depth > 0 {
		l.space()
		level := l.depth - 1
		switch l.peek() {
		case ',':
			l.pos++
			l.count[level]++
			if n := l.shape[level]; n != 0 && l.count[level] >= n {
				return false, l.fail("the list has more than the %d elements of the lists before it; lists must be equally long", n)
			}
			return true, nil
		case ']':
			n := l.count[level] + 1
			if l.shape[level] != 0 && n != l.shape[level] {
				l.depth--
				return false, l.fail("a list of %d where the lists before it have %d; lists must be equally long", n, l.shape[level])
			}
			l.pos++
			l.shape[level] = n
			l.depth = level
		default:
			return false, l.unexpected("',' or ']'")
		}
	}
	return false, nil
}

// element reads one number or boolean.
func (l *list) element() error {
	if l.depth != l.leaf {
		if l.leaf >= 0 {
			return l.fail("a single value where the elements before it are lists; lists must be equally deep")
		}
		l.leaf = l.depth
	}
	switch c := l.peek(); {
	case c == '-' || (c >= '0' && c <= '9'):
		return l.number()
	case c == 't':
		return l.boolean("true", 1)
	case c == 'f':
		return l.boolean("false", 0)
	case c == '"':
		return l.fail("a string where a number should be")
	case c == 'n':
		return l.fail("null where a number should be")
	case c == '{':
		return l.fail("an object where a number should be")
	}
	return l.unexpected("a number, a boolean or a list")
}

func (l *list) boolean(text string, bit byte) error {
	if len(l.body)-l.pos < len(text) || string(l.body[l.pos:l.pos+len(text)]) != text {
		return l.unexpected("a number, a boolean or a list")
	}
	switch {
	case l.kind == 0:
		l.kind = Bool
	case l.kind != Bool && l.in.Dtype == 0:
		return l.fail("%s among numbers", text)
	case l.kind != Bool:
		return l.fail("%s, but the model takes %s", text, l.kind)
	}
	l.pos += len(text)
	l.row.buf = append(l.row.buf, bit)
	return nil
}

// finish sets the current input's value.
func (l *list) finish() error {
	if l.beyond > 0 {
		return &InputError{
			Input: l.in.Name, Index: l.beyondIndex, Offset: l.beyond - 1,
			Reason: "an integer beyond int64; declare the input's dtype (uint64, float64), or write it with a fraction",
		}
	}
	v := l.v
	v.dtype, v.ndim, v.shape = l.kind, l.leaf, l.shape
	v.data = l.row.buf[l.start:len(l.row.buf):len(l.row.buf)]
	return nil
}

// fail is an error at the next byte, with the path of indices that leads there.
func (l *list) fail(format string, args ...any) *InputError {
	err := l.errorf(l.pos, format, args...)
	err.Index = l.index()
	return err
}

func (l *list) index() []int { return append([]int(nil), l.count[:l.depth]...) }
