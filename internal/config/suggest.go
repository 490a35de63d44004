package config

import (
	"fmt"
	"slices"

	"github.com/agnivade/levenshtein"
)

// suggest names the candidate that is nearest, when it is near.
func suggest(name string, candidates []string) string {
	best, distance := "", len(name)/2+2
	slices.Sort(candidates)
	for _, c := range candidates {
		if d := levenshtein.ComputeDistance(name, c); d < distance {
			best, distance = c, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf("; did you mean %q?", best)
}
