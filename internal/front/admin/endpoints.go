package admin

import (
	"net/http"
	"slices"

	"github.com/shoalserve/shoal/internal/auth"
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
	// Compare, if given, has the answers compared with the endpoint's.
	Compare *serving.Compare `json:"compare,omitempty"`
}

func (f *Front) createEndpoint(w http.ResponseWriter, r *http.Request) error {
	var spec serving.EndpointSpec
	if err := f.decode(w, r, maxBody, &spec); err != nil {
		return err
	}
	note(r, "route", spec.Route, "backend", spec.Backend, "traffic", spec.Traffic)
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
	f.writeJSON(w, r, http.StatusOK, endpointList{f.visible(identityOf(r))})
	return nil
}

// visible are the endpoints that somebody may know of.
func (f *Front) visible(who *auth.Identity) []serving.EndpointStatus {
	all := f.opts.Registry.EndpointStatuses()
	if who.May(auth.Deploy) {
		return all
	}
	all = slices.DeleteFunc(all, func(e serving.EndpointStatus) bool { return !who.Reaches(e.Name) })
	for i := range all {
		all[i].Comparisons, all[i].Canary = nil, nil // with samples of others' answers
	}
	return all
}

func (f *Front) getEndpoint(w http.ResponseWriter, r *http.Request) error {
	if who := identityOf(r); !who.May(auth.Deploy) {
		if err := who.AllowQuery(r.PathValue("name")); err != nil {
			return err
		}
		for _, e := range f.visible(who) {
			if e.Name == r.PathValue("name") {
				f.writeJSON(w, r, http.StatusOK, e)
				return nil
			}
		}
	}
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
	if err := f.decode(w, r, maxBody, &weights); err != nil {
		return err
	}
	note(r, "traffic", weights)
	if err := f.opts.Registry.SetTraffic(r.PathValue("name"), weights); err != nil {
		return err
	}
	return f.writeEndpoint(w, r, http.StatusOK)
}

func (f *Front) setShadow(w http.ResponseWriter, r *http.Request) error {
	var spec shadowSpec
	if err := f.decode(w, r, maxBody, &spec); err != nil {
		return err
	}
	if spec.Proportion == nil {
		return serving.Errorf(serving.InvalidArgument, "shadow traffic: proportion is missing; give 0 to stop it")
	}
	note(r, "backend", spec.Backend, "proportion", *spec.Proportion)
	var err error
	if spec.Compare != nil {
		err = f.opts.Registry.CompareShadow(r.PathValue("name"), spec.Backend, *spec.Proportion, *spec.Compare)
	} else {
		err = f.opts.Registry.Shadow(r.PathValue("name"), spec.Backend, *spec.Proportion)
	}
	if err != nil {
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
