package admin

import (
	"context"
	"net/http"

	"github.com/shoalserve/shoal/internal/serving"
)

// Reloaded tells what a reload changed.
type Reloaded struct {
	serving.Applied
	// Warnings name what differs now and cannot change while the server runs.
	Warnings []string `json:"warnings,omitempty"`
}

// Reload reads again what the server was started with. With afresh, what did
// not change is started anew as well.
type Reload func(ctx context.Context, afresh bool) (Reloaded, error)

func (f *Front) reload(w http.ResponseWriter, r *http.Request) error {
	afresh, err := boolParam(r, "afresh")
	if err != nil {
		return err
	}
	if f.opts.Reload == nil {
		return serving.Errorf(serving.Unavailable, "this server cannot reload")
	}
	ctx, cancel := f.untilDrain(r)
	defer cancel()
	done, err := f.opts.Reload(ctx, afresh)
	if err != nil {
		return err
	}
	f.writeJSON(w, r, http.StatusOK, done)
	return nil
}
