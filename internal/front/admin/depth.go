package admin

import (
	"github.com/shoalserve/shoal/internal/front/problem"
	"github.com/shoalserve/shoal/internal/serving"
)

// checkDepth refuses arguments in JSON that Python's decoder would give up on.
func checkDepth(payload []byte) error {
	if at := problem.TooDeep(payload); at >= 0 {
		return serving.Errorf(serving.InvalidArgument, "the query is %s (byte %d)", problem.DeepReason, at)
	}
	return nil
}
