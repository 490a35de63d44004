package python

import (
	"encoding/binary"
	"strings"
	"testing"

	"github.com/shoalserve/shoal/internal/serving"
)

// What no answer can be is an error that says so, and not another answer.
func TestResponsesThatNoClientCouldBeGiven(t *testing.T) {
	for object, want := range map[string]string{
		`{"status": 99, "headers": []}`:                         "the status 99; one is from 200 to 599",
		`{"status": 101, "headers": []}`:                        "the status 101;",
		`{"status": 600, "headers": []}`:                        "the status 600;",
		`{"headers": []}`:                                       "the status 0;",
		`{"status": 200, "headers": [["X-A", "a\r\nX-B: b"]]}`:  `the header "X-A": "a\r\nX-B: b"`,
		`{"status": 200, "headers": [["X A", "a"]]}`:            `the header "X A": "a"`,
		`{"status": 200, "headers": [["X-A", "a", "b"], "no"]}`: "unreadable answer",
	} {
		payload := append(binary.LittleEndian.AppendUint32(nil, uint32(len(object))), object...)
		_, err := parseFull(payload, "m")
		if serving.Describe(err).Code != serving.Internal || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), `"m"`) {
			t.Errorf("%s: %v", object, err)
		}
	}
}
