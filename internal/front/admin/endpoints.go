package admin

import (
	"net/http"

	"github.com/shoalserve/shoal/internal/serving"
)

type endpointList struct {
	Endpoints []serving.EndpointStatus `json:"endpoints"`
}

// shadowSpec is the body of a call for shadow traffic. Proportion is a pointer
// so that leaving it out does not stop the shadow by accident.
type shadowSpec struct {
	Backend    string   `json:"backend"`
	Proportion *float64 `json:"proportion"`
}

func (f *Front) createEndpoint(w http.ResponseWriter, r *http.Request) error {
	var spec serving.EndpointSpec
	if err := decode(w, r, maxBody, &spec); err != nil {
		return err
	}
	created, err := f.opts.Registry.CreateEndpoint(r.PathValue("name"), spec)
	if err != nil {
		return err
	}
	if created {
		return f.writeEndpoint(w, r, http.StatusCreated)
	}
	return f.writeEndpoint(w, r, http.StatusOK)
}

func (f *Front) listEndpoints(w http.ResponseWriter, r *http.Request) error {
	f.writeJSON(w, r, http.StatusOK, endpointList{f.opts.Registry.EndpointStatuses()})
	return nil
}

func (f *Front) getEndpoint(w http.ResponseWriter, r *http.Request) error {
	return f.writeEndpoint(w, r, http.StatusOK)
}

func (f *Front) deleteEndpoint(w http.ResponseWriter, r *http.Request) error {
	if err := f.opts.Registry.DeleteEndpoint(r.PathValue("name")); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (f *Front) setTraffic(w http.ResponseWriter, r *http.Request) error {
	var weights map[string]float64
	if err := decode(w, r, maxBody, &weights); err != nil {
		return err
	}
	if err := f.opts.Registry.SetTraffic(r.PathValue("name"), weights); err != nil {
		return err
	}
	return f.writeEndpoint(w, r, http.StatusOK)
}

func (f *Front) setShadow(w http.ResponseWriter, r *http.Request) error {
	var spec shadowSpec
	if err := decode(w, r, maxBody, &spec); err != nil {
		return err
	}
	if spec.Proportion == nil {
		return serving.Errorf(serving.InvalidArgument, "shadow traffic: proportion is missing; give 0 to stop it")
	}
	if err := f.opts.Registry.Shadow(r.PathValue("name"), spec.Backend, *spec.Proportion); err != nil {
		return err
	}
	return f.writeEndpoint(w, r, http.StatusOK)
}

// writeEndpoint answers with the endpoint that the path names, as it is now.
func (f *Front) writeEndpoint(w http.ResponseWriter, r *http.Request, status int) error {
	endpoint, err := f.opts.Registry.EndpointStatus(r.PathValue("name"))
	if err != nil {
		return err
	}
	f.writeJSON(w, r, status, endpoint)
	return nil
}
