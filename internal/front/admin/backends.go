package admin

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"strconv"
	"time"

	"github.com/shoalserve/shoal/internal/artifact"
	"github.com/shoalserve/shoal/internal/auth"
	"github.com/shoalserve/shoal/internal/runtime/python"
	"github.com/shoalserve/shoal/internal/serving"
)

// Status is the whole server as operators see it.
type Status struct {
	Version       string  `json:"version"`
	PID           int     `json:"pid"`
	UptimeSeconds float64 `json:"uptime_seconds"`
	HTTPAddress   string  `json:"http_address"`
	Ready         bool    `json:"ready"`
	// NotReady says what is missing, when Ready is false.
	NotReady  string                   `json:"not_ready,omitempty"`
	Backends  []serving.BackendStatus  `json:"backends"`
	Endpoints []serving.EndpointStatus `json:"endpoints"`
}

// BackendSpec describes a backend to deploy.
type BackendSpec struct {
	python.Spec
	// Config is a partial serving.Config; absent keys take their defaults.
	Config json.RawMessage `json:"config,omitempty"`
}

// Artifact is the answer to an upload.
type Artifact struct {
	Digest string `json:"digest"`
	Size   int64  `json:"size"`
}

type backendList struct {
	Backends []serving.BackendStatus `json:"backends"`
}

// probeTimeout bounds how long a status waits for examples to be computed.
const probeTimeout = 2 * time.Second

func (f *Front) status(w http.ResponseWriter, r *http.Request) error {
	who := identityOf(r)
	s := Status{
		Version: f.opts.Version, PID: os.Getpid(), UptimeSeconds: time.Since(f.started).Seconds(),
		HTTPAddress: f.opts.HTTPAddress(), Ready: true,
		Backends: []serving.BackendStatus{}, Endpoints: f.visible(who),
	}
	if who.May(auth.Deploy) {
		s.Backends = f.backends()
	}
	ctx, cancel := context.WithTimeout(r.Context(), probeTimeout)
	defer cancel()
	if err := f.opts.Prober.Ready(ctx); err != nil {
		s.Ready, s.NotReady = false, "not ready"
		if who.May(auth.Deploy) {
			s.NotReady = err.Error()
		}
	}
	f.writeJSON(w, r, http.StatusOK, s)
	return nil
}

func (f *Front) upload(w http.ResponseWriter, r *http.Request) error {
	if f.opts.NoPickle {
		return errPickle
	}
	if f.opts.Artifacts == nil {
		return serving.Errorf(serving.Unavailable, "this server keeps no artifacts")
	}
	paced, done := body(w, r, f.opts.MaxArtifactBytes)
	defer done()
	digest, size, err := f.opts.Artifacts.Put(r.Context(), paced)
	if err != nil {
		return artifactError(err)
	}
	note(r, "digest", digest, "size", size)
	f.writeJSON(w, r, http.StatusCreated, Artifact{digest, size})
	return nil
}

// artifactError gives a store's errors their codes.
func artifactError(err error) error {
	switch {
	case errors.Is(err, artifact.ErrTooLarge):
		return serving.Errorf(serving.TooLarge, "%v", err)
	case errors.Is(err, artifact.ErrNotFound):
		return serving.Errorf(serving.InvalidArgument, "%v; upload it with POST /v1/artifacts first", err)
	}
	if tooLarge, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return serving.Errorf(serving.TooLarge, "the artifact is larger than %d bytes", tooLarge.Limit)
	}
	return err
}

func (f *Front) deploy(w http.ResponseWriter, r *http.Request) error {
	name := r.PathValue("name")
	replace, err := boolParam(r, "replace")
	if err != nil {
		return err
	}
	var spec BackendSpec
	if err := f.decode(w, r, maxBody, &spec); err != nil {
		return err
	}
	note(r, "replace", replace, "kind", spec.Source.Kind, "digest", spec.Source.Digest, "path", spec.Source.Path, "object", spec.Source.Object)
	config, err := serving.DecodeConfig(serving.Config{}, spec.Config)
	if err != nil {
		return err
	}
	config = f.opts.Registry.WarmedUp(name, config)
	ctx, cancel := f.untilDrain(r)
	defer cancel()
	backend, err := f.opts.Registry.Deploy(ctx, name, replace, func(ctx context.Context) (serving.Backend, error) {
		return f.build(ctx, name, spec.Spec, config)
	})
	if err != nil {
		return err
	}
	f.writeJSON(w, r, http.StatusCreated, veiled(backend.Status()))
	return nil
}

func (f *Front) build(ctx context.Context, name string, spec python.Spec, config serving.Config) (serving.Backend, error) {
	if f.opts.Deployer == nil {
		return nil, serving.Errorf(serving.Unavailable, "this server runs no Python models")
	}
	if f.opts.NoPickle && (spec.Source.Kind == "pickle" || spec.Source.Digest != "") {
		return nil, errPickle
	}
	if spec.Source.Digest != "" {
		return f.buildArtifact(ctx, name, spec, config)
	}
	if spec.Source.Kind == "pickle" {
		return nil, serving.Errorf(serving.InvalidArgument, "a python source of kind \"pickle\" needs the digest of an artifact, and no path")
	}
	return f.start(ctx, name, spec, config)
}

// start starts a backend, or has the one that has the name take it over.
func (f *Front) start(ctx context.Context, name string, spec python.Spec, config serving.Config) (serving.Backend, error) {
	old, _ := f.opts.Registry.Backend(name) // nil: there is none yet
	return f.opts.Deployer.Redeploy(ctx, old, name, spec, config)
}

// buildArtifact starts a backend of an artifact, which it holds as long as it
// lives: replicas that are restarted read it again.
func (f *Front) buildArtifact(ctx context.Context, name string, spec python.Spec, config serving.Config) (serving.Backend, error) {
	if spec.Source.Kind != "pickle" || spec.Source.Path != "" {
		return nil, serving.Errorf(serving.InvalidArgument, "a digest belongs to a python source of kind \"pickle\" without a path")
	}
	if f.opts.Artifacts == nil {
		return nil, serving.Errorf(serving.Unavailable, "this server keeps no artifacts")
	}
	path, release, err := f.opts.Artifacts.Hold(ctx, spec.Source.Digest)
	if err != nil {
		return nil, artifactError(err)
	}
	spec.Source.Path, spec.Closed = path, release
	backend, err := f.start(ctx, name, spec, config)
	if err != nil {
		release()
		return nil, err
	}
	return backend, nil
}

// backends are all backends as clients see them.
func (f *Front) backends() []serving.BackendStatus {
	all := f.opts.Registry.BackendStatuses()
	for i := range all {
		all[i] = veiled(all[i])
	}
	return all
}

// veil is what is shown of a value that may be a secret.
const veil = "***"

// veiled is a status without the values of its environment, which often are
// secrets, while a status is shown around.
func veiled(s serving.BackendStatus) serving.BackendStatus {
	env := make(map[string]string, len(s.Config.Env))
	for name := range s.Config.Env {
		env[name] = veil
	}
	if s.Config.Env != nil {
		s.Config.Env = env
	}
	return s
}

func (f *Front) listBackends(w http.ResponseWriter, r *http.Request) error {
	f.writeJSON(w, r, http.StatusOK, backendList{f.backends()})
	return nil
}

func (f *Front) getBackend(w http.ResponseWriter, r *http.Request) error {
	backend, err := f.opts.Registry.Backend(r.PathValue("name"))
	if err != nil {
		return err
	}
	f.writeJSON(w, r, http.StatusOK, veiled(backend.Status()))
	return nil
}

func (f *Front) updateConfig(w http.ResponseWriter, r *http.Request) error {
	patch, done, err := f.readBody(w, r, maxBody)
	defer done()
	if err != nil {
		return err
	}
	ctx, cancel := f.untilDrain(r)
	defer cancel()
	name := r.PathValue("name")
	note(r, "keys", keysOf(patch))
	if err := f.opts.Registry.UpdateConfig(ctx, name, patch); err != nil {
		return err
	}
	return f.getBackend(w, r)
}

func (f *Front) deleteBackend(w http.ResponseWriter, r *http.Request) error {
	ctx, cancel := f.untilDrain(r)
	defer cancel()
	if err := f.opts.Registry.Delete(ctx, r.PathValue("name")); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// boolParam reads a query parameter that is false when absent.
func boolParam(r *http.Request, name string) (bool, error) {
	text := r.URL.Query().Get(name)
	if text == "" {
		return false, nil
	}
	value, err := strconv.ParseBool(text)
	if err != nil {
		return false, serving.Errorf(serving.InvalidArgument, "parameter %s must be true or false, not %q", name, text)
	}
	return value, nil
}
