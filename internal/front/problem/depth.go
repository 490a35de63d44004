package problem

import (
	"bytes"
	"strconv"
)

// MaxDepth is how deeply a body of JSON may be nested: less than what makes Python's
// decoder give up, within a batch that holds others' queries.
const MaxDepth = 500

// DeepReason says what is wrong with a body that is nested more deeply.
var DeepReason = "nested too deeply, at most " + strconv.Itoa(MaxDepth) + " levels of lists and objects are possible"

// TooDeep returns where lists and objects are nested too deeply, -1 if they are not.
// Nearly all bodies have too few of them.
func TooDeep(body []byte) int {
	if bytes.Count(body, []byte{'['})+bytes.Count(body, []byte{'{'}) <= MaxDepth {
		return -1
	}
	depth, inString := 0, false
	for i := 0; i < len(body); i++ {
		switch c := body[i]; {
		case inString && c == '\\':
			i++ // whatever is escaped
		case c == '"':
			inString = !inString
		case inString:
		case c == '[' || c == '{':
			if depth++; depth > MaxDepth {
				return i
			}
		case c == ']' || c == '}':
			depth--
		}
	}
	return -1
}
