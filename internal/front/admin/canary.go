package admin

import (
	"net/http"

	"github.com/shoalserve/shoal/internal/serving"
)

func (f *Front) startCanary(w http.ResponseWriter, r *http.Request) error {
	var spec serving.CanarySpec
	if err := f.decode(w, r, maxBody, &spec); err != nil {
		return err
	}
	note(r, "backend", spec.Backend, "steps", spec.Steps)
	status, err := f.opts.Registry.StartCanary(r.PathValue("name"), spec)
	if err != nil {
		return err
	}
	f.writeJSON(w, r, http.StatusCreated, status)
	return nil
}

func (f *Front) abortCanary(w http.ResponseWriter, r *http.Request) error {
	status, err := f.opts.Registry.AbortCanary(r.PathValue("name"))
	if err != nil {
		return err
	}
	f.writeJSON(w, r, http.StatusOK, status)
	return nil
}

func (f *Front) promoteCanary(w http.ResponseWriter, r *http.Request) error {
	status, err := f.opts.Registry.PromoteCanary(r.PathValue("name"))
	if err != nil {
		return err
	}
	f.writeJSON(w, r, http.StatusOK, status)
	return nil
}
