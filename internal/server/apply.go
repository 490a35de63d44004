package server

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"reflect"

	"github.com/shoalserve/shoal/internal/config"
	"github.com/shoalserve/shoal/internal/runtime/python"
	"github.com/shoalserve/shoal/internal/serving"
)

// deployment is a backend of a config file as it was deployed.
type deployment struct {
	spec    python.Spec
	digest  [sha256.Size]byte // of the source's file
	backend serving.Backend
}

// Apply makes the server serve what a config file describes, all of it or,
// when something fails, what it served before. What is deployed already stays,
// unless its source (where it is, what its file holds, its arguments, its
// interpreter) differs, or afresh is set; what the last file had and this one has
// not is removed. What was deployed in other ways is left alone. A file that does not
// speak any more of what is served is refused with InvalidArgument.
func (s *Server) Apply(ctx context.Context, file *config.File, afresh bool) (serving.Applied, error) {
	if err := s.checkCut(file); err != nil {
		return serving.Applied{}, err
	}
	next, err := readSources(file)
	if err != nil {
		return serving.Applied{}, err
	}
	placed, done, err := s.Registry.Apply(ctx, s.plan(file, next, afresh))
	if err != nil {
		return serving.Applied{}, err
	}
	for name, d := range next {
		d.backend = placed[name]
		next[name] = d
	}
	s.file, s.deployed = file, next
	return done, nil
}

// checkCut refuses a file from which a whole section is gone of what is served: it
// may have been read while somebody wrote it. Who means it says so in the file.
func (s *Server) checkCut(file *config.File) error {
	switch {
	case s.file == nil:
	case len(s.file.Backends) > 0 && file.Backends == nil:
		return cut("backends", len(s.file.Backends))
	case len(s.file.Endpoints) > 0 && file.Endpoints == nil && len(file.Backends) > 0:
		return cut("endpoints", len(s.file.Endpoints))
	}
	return nil
}

func cut(section string, served int) error {
	return serving.Errorf(serving.InvalidArgument,
		"the file has no section %s any more, which would remove all %d; is it still being written? To remove them, write \"%s: {}\"", section, served, section)
}

// readSources looks at what the backends of a file are made of.
func readSources(file *config.File) (map[string]deployment, error) {
	sources := make(map[string]deployment)
	for name, b := range file.Backends {
		d := deployment{spec: b.Spec}
		if err := d.read(); err != nil {
			return nil, fmt.Errorf("backend %q: %w", name, err)
		}
		sources[name] = d
	}
	return sources, nil
}

// read notes what the source's file holds. One that cannot be found is for the
// worker to complain of, which knows where it looked.
func (d *deployment) read() error {
	source, err := os.Open(d.spec.Source.Path)
	if err != nil {
		return nil
	}
	defer source.Close()
	hash := sha256.New()
	if _, err := io.Copy(hash, source); err != nil {
		return fmt.Errorf("reading its source: %w", err)
	}
	hash.Sum(d.digest[:0])
	return nil
}

// plan says what is to change for a file to be served.
func (s *Server) plan(file *config.File, next map[string]deployment, afresh bool) serving.Plan {
	plan := serving.Plan{Backends: make(map[string]serving.BackendPlan), Endpoints: make(map[string]serving.EndpointSpec)}
	for name, e := range file.Endpoints {
		plan.Endpoints[name] = serving.EndpointSpec{
			Traffic: e.Traffic, Shadows: e.Shadow, Route: e.Route, Methods: e.Methods, Example: e.Example,
			Canary: e.Canary,
		}
	}
	for name, b := range file.Backends {
		b.Config = b.Config.WarmedUpFor(name, plan.Endpoints)
		p := serving.BackendPlan{Build: s.building(name, b), Config: b.Config}
		old, new := s.deployed[name], next[name]
		if !afresh && old.digest == new.digest && reflect.DeepEqual(old.spec, new.spec) {
			p.Keep = old.backend
		}
		plan.Backends[name] = p
	}
	if s.file == nil {
		return plan
	}
	plan.RemoveBackends = missing(s.file.Backends, file.Backends)
	plan.RemoveEndpoints = missing(s.file.Endpoints, file.Endpoints)
	return plan
}

// missing returns the names that next lacks.
func missing[V any](old, next map[string]V) (names []string) {
	for name := range old {
		if _, ok := next[name]; !ok {
			names = append(names, name)
		}
	}
	return names
}

func (s *Server) building(name string, b config.Backend) serving.Build {
	return func(ctx context.Context) (serving.Backend, error) {
		old, _ := s.Registry.Backend(name) // nil: there is none yet
		built, err := s.Deployer.Redeploy(ctx, old, name, b.Spec, b.Config)
		return built, explain(err)
	}
}
