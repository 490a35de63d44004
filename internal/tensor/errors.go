package tensor

import (
	"fmt"
	"slices"

	"github.com/agnivade/levenshtein"
)

// InputError says what is wrong with a query: it is its caller's fault.
type InputError struct {
	// Input is the name of the input; empty when the query as a whole is meant.
	Input string
	// Index is the path within nested lists to the element.
	Index []int
	// Offset is the byte of the body, or of the query's text, where it was found;
	// negative when there is no such place.
	Offset int
	// Reason says what was wrong and what would be right.
	Reason string
}

// Error tells where and what, as in: input "x"[3][0] (byte 17): null is not a number.
func (e *InputError) Error() string {
	var buf []byte
	if e.Input != "" {
		buf = fmt.Appendf(buf, "input %q", e.Input)
		for _, i := range e.Index {
			buf = fmt.Appendf(buf, "[%d]", i)
		}
	} else {
		buf = append(buf, "the query"...)
	}
	if e.Offset >= 0 {
		buf = fmt.Appendf(buf, " (byte %d)", e.Offset)
	}
	return string(buf) + ": " + e.Reason
}

func errorf(input string, offset int, format string, args ...any) *InputError {
	return &InputError{Input: input, Offset: offset, Reason: fmt.Sprintf(format, args...)}
}

// suggest names the candidate that is nearest, when it is near.
func suggest(name string, candidates []string) string {
	best, distance := "", len(name)/2+2
	if len(name) > 64 {
		return ""
	}
	for _, c := range slices.Sorted(slices.Values(candidates)) {
		if d := levenshtein.ComputeDistance(name, c); d < distance {
			best, distance = c, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf("; did you mean %q?", best)
}
