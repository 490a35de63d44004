package admin

import (
	"net/http"

	"github.com/shoalserve/shoal/internal/serving"
)

// Verification is what came of verifying an endpoint: a report for each backend that
// gets traffic.
type Verification struct {
	Reports []serving.VerifyReport `json:"reports"`
}

func (f *Front) verify(w http.ResponseWriter, r *http.Request) error {
	var spec serving.VerifySpec
	if err := f.decode(w, r, maxQuery, &spec); err != nil {
		return err
	}
	ctx, cancel := f.untilDrain(r)
	defer cancel()
	reports, err := f.opts.Registry.Verify(ctx, r.PathValue("name"), spec)
	if err != nil {
		return err
	}
	f.writeJSON(w, r, http.StatusOK, Verification{Reports: reports})
	return nil
}
