package serving

import (
	"strconv"
	"unicode/utf8"

	"github.com/shoalserve/shoal/batch"
)

// maxCaller is the longest name that a caller may have, in bytes.
const maxCaller = 128

// CheckCaller refuses a caller's name that is too long or no text; empty is none.
func CheckCaller(name string) error {
	if len(name) > maxCaller || !utf8.ValidString(name) {
		return Errorf(InvalidArgument, "a caller's name must be a text of at most %d bytes in UTF-8, got %d bytes", maxCaller, len(name))
	}
	return nil
}

// CheckPriority refuses a priority that is out of range.
func CheckPriority(priority int) error {
	if priority < batch.MinPriority || priority > batch.MaxPriority {
		return Errorf(InvalidArgument, "priority must be a whole number from %d to %d, got %d", batch.MinPriority, batch.MaxPriority, priority)
	}
	return nil
}

// ParsePriority reads a priority from a text.
func ParsePriority(text string) (int, error) {
	priority, err := strconv.Atoi(text)
	if err != nil {
		return 0, Errorf(InvalidArgument, "priority must be a whole number from %d to %d, got %q", batch.MinPriority, batch.MaxPriority, text)
	}
	return priority, CheckPriority(priority)
}
