package serving

import "testing"

type named struct {
	Backend
	name string
}

func (n named) Name() string { return n.name }

func TestWhatRoundingLeavesOpenGoesToABackendWithTraffic(t *testing.T) {
	backends := map[string]Backend{"a": named{name: "a"}, "b": named{name: "b"}, "c": named{name: "c"}}
	shares, err := newTraffic(map[string]float64{"a": 0.5, "b": 0.5 - 9e-9, "c": 0}, backends)
	if err != nil {
		t.Fatal(err)
	}
	const draw = 1 - 1e-9 // beyond the sum of the weights
	for _, s := range shares {
		if draw < s.upTo {
			if s.weight == 0 {
				t.Errorf("backend %s gets queries at weight 0", s.backend.Name())
			}
			return
		}
	}
	t.Error("nobody gets the query, so that the last backend would, at weight 0")
}
