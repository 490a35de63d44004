package shoal

import (
	"testing"

	"github.com/shoalserve/shoal/internal/serving"
)

func TestKeywordArgumentsBecomeAPointerToAStruct(t *testing.T) {
	type params struct {
		Number float64 `json:"number"`
	}
	for payload, want := range map[string]float64{`{"kwargs": {"number": 41}}`: 41, `{"kwargs": {}}`: 0, `{}`: 0, `{"data": {"number": 2}}`: 2, `{"data": null, "kwargs": {"number": 3}}`: 3} {
		got, err := decodeArgs[*params](serving.Args{Head: []byte(jsonHead), Payload: []byte(payload)})
		if err != nil || got == nil || got.Number != want {
			t.Errorf("%s: %v, %v; want %v", payload, got, err, want)
		}
	}
}
