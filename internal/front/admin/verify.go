package admin

import (
	"context"
	"fmt"
	"net/http"

	"github.com/shoalserve/shoal/internal/serving"
)

// Verification is what came of verifying an endpoint: a report for each backend that
// gets traffic.
type Verification struct {
	Reports []serving.VerifyReport `json:"reports"`
}

func (f *Front) verify(w http.ResponseWriter, r *http.Request) error {
	endpoint, err := f.opts.Registry.Endpoint(r.PathValue("name"))
	if err != nil {
		return err
	}
	var spec serving.VerifySpec
	if err := f.decode(w, r, maxQuery, &spec); err != nil {
		return err
	}
	if len(spec.Items) == 0 {
		spec.Items = endpoint.ExampleItems()
	}
	ctx, cancel := f.untilDrain(r)
	defer cancel()
	v := Verification{Reports: []serving.VerifyReport{}}
	for _, backend := range endpoint.Backends() {
		report, err := verifierOf(backend).Verify(ctx, spec)
		if err != nil {
			return fmt.Errorf("verifying backend %q: %w", backend.Name(), err)
		}
		v.Reports = append(v.Reports, report)
	}
	f.writeJSON(w, r, http.StatusOK, v)
	return nil
}

// verifierOf is the backend, or who says that it cannot be verified.
func verifierOf(b serving.Backend) serving.Verifier {
	if v, ok := b.(serving.Verifier); ok {
		return v
	}
	return unverifiable(b.Name())
}

// unverifiable is a backend whose batches nobody else can make up.
type unverifiable string

// Verify implements [serving.Verifier].
func (u unverifiable) Verify(context.Context, serving.VerifySpec) (r serving.VerifyReport, err error) {
	return r, serving.Errorf(serving.InvalidArgument, "backend %q is a Go model; only models in Python can be verified so far", string(u))
}
