package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strconv"

	"github.com/shoalserve/shoal/internal/serving"
)

// Status returns the whole server's status.
func (c *Client) Status(ctx context.Context) (s Status, err error) {
	err = c.call(ctx, http.MethodGet, "/v1/status", nil, &s)
	return s, err
}

// Upload stores an artifact, such as the pickle of a model.
func (c *Client) Upload(ctx context.Context, r io.Reader) (Artifact, error) {
	response, err := c.succeed(ctx, http.MethodPost, "/v1/artifacts", "application/octet-stream", r)
	if err != nil {
		return Artifact{}, err
	}
	defer response.Body.Close()
	var a Artifact
	if err := json.NewDecoder(response.Body).Decode(&a); err != nil {
		return Artifact{}, fmt.Errorf("reading the answer of the server at %s: %w", c.address, err)
	}
	return a, nil
}

// Reload has the server read again what it was started with. With afresh, what
// did not change is started anew as well.
func (c *Client) Reload(ctx context.Context, afresh bool) (done Reloaded, err error) {
	err = c.call(ctx, http.MethodPost, "/v1/reload?afresh="+strconv.FormatBool(afresh), nil, &done)
	return done, err
}

// Deploy starts a backend and returns when it is ready. With replace it takes
// the place of one that has the name. When ctx ends first, nothing changes.
func (c *Client) Deploy(ctx context.Context, name string, spec BackendSpec, replace bool) (b serving.BackendStatus, err error) {
	path, err := pathOf("backends", name, "?replace="+strconv.FormatBool(replace))
	if err != nil {
		return b, err
	}
	err = c.call(ctx, http.MethodPut, path, spec, &b)
	return b, err
}

// Backends lists the backends.
func (c *Client) Backends(ctx context.Context) ([]serving.BackendStatus, error) {
	var list backendList
	err := c.call(ctx, http.MethodGet, "/v1/backends", nil, &list)
	return list.Backends, err
}

// Backend returns one backend.
func (c *Client) Backend(ctx context.Context, name string) (b serving.BackendStatus, err error) {
	path, err := pathOf("backends", name, "")
	if err != nil {
		return b, err
	}
	err = c.call(ctx, http.MethodGet, path, nil, &b)
	return b, err
}

// UpdateConfig changes the keys of a backend's config that patch, a JSON
// object, names.
func (c *Client) UpdateConfig(ctx context.Context, name string, patch json.RawMessage) (b serving.BackendStatus, err error) {
	path, err := pathOf("backends", name, "/config")
	if err != nil {
		return b, err
	}
	err = c.call(ctx, http.MethodPatch, path, patch, &b)
	return b, err
}

// DeleteBackend deletes a backend that no endpoint uses.
func (c *Client) DeleteBackend(ctx context.Context, name string) error {
	path, err := pathOf("backends", name, "")
	if err != nil {
		return err
	}
	return c.call(ctx, http.MethodDelete, path, nil, nil)
}

// CreateEndpoint makes an endpoint; the same one again is no error.
func (c *Client) CreateEndpoint(ctx context.Context, name string, spec serving.EndpointSpec) (serving.EndpointStatus, error) {
	return c.endpoint(ctx, http.MethodPut, name, "", spec)
}

// Endpoints lists the endpoints.
func (c *Client) Endpoints(ctx context.Context) ([]serving.EndpointStatus, error) {
	var list endpointList
	err := c.call(ctx, http.MethodGet, "/v1/endpoints", nil, &list)
	return list.Endpoints, err
}

// Endpoint returns one endpoint.
func (c *Client) Endpoint(ctx context.Context, name string) (serving.EndpointStatus, error) {
	return c.endpoint(ctx, http.MethodGet, name, "", nil)
}

// DeleteEndpoint deletes an endpoint and leaves its backends alone.
func (c *Client) DeleteEndpoint(ctx context.Context, name string) error {
	path, err := pathOf("endpoints", name, "")
	if err != nil {
		return err
	}
	return c.call(ctx, http.MethodDelete, path, nil, nil)
}

// SetTraffic splits an endpoint's traffic by weights that sum to 1.
func (c *Client) SetTraffic(ctx context.Context, endpoint string, weights map[string]float64) (serving.EndpointStatus, error) {
	return c.endpoint(ctx, http.MethodPut, endpoint, "/traffic", weights)
}

// Shadow copies a proportion of an endpoint's queries to a backend; 0 stops it.
func (c *Client) Shadow(ctx context.Context, endpoint, backend string, proportion float64) (serving.EndpointStatus, error) {
	return c.endpoint(ctx, http.MethodPut, endpoint, "/shadow", shadowSpec{Backend: backend, Proportion: &proportion})
}

// CompareShadow is Shadow that has the answers compared with the endpoint's.
func (c *Client) CompareShadow(ctx context.Context, endpoint, backend string, proportion float64, how serving.Compare) (serving.EndpointStatus, error) {
	return c.endpoint(ctx, http.MethodPut, endpoint, "/shadow", shadowSpec{backend, &proportion, &how})
}

// StartCanary has a backend take over an endpoint's traffic in steps.
func (c *Client) StartCanary(ctx context.Context, endpoint string, spec serving.CanarySpec) (serving.CanaryStatus, error) {
	return c.canary(ctx, http.MethodPut, endpoint, "/canary", spec)
}

// AbortCanary turns an endpoint's canary back.
func (c *Client) AbortCanary(ctx context.Context, endpoint string) (serving.CanaryStatus, error) {
	return c.canary(ctx, http.MethodDelete, endpoint, "/canary", nil)
}

// PromoteCanary gives an endpoint's canary all of the traffic now.
func (c *Client) PromoteCanary(ctx context.Context, endpoint string) (serving.CanaryStatus, error) {
	return c.canary(ctx, http.MethodPost, endpoint, "/canary/promote", nil)
}

func (c *Client) canary(ctx context.Context, method, endpoint, suffix string, v any) (s serving.CanaryStatus, err error) {
	path, err := pathOf("endpoints", endpoint, suffix)
	if err != nil {
		return s, err
	}
	err = c.call(ctx, method, path, v, &s)
	return s, err
}

func (c *Client) endpoint(ctx context.Context, method, name, suffix string, v any) (e serving.EndpointStatus, err error) {
	path, err := pathOf("endpoints", name, suffix)
	if err != nil {
		return e, err
	}
	err = c.call(ctx, method, path, v, &e)
	return e, err
}

// Answer is a model's answer to a query.
type Answer struct {
	Status int
	Header http.Header // Content-Type tells what Body is
	Body   []byte
}

// Query asks an endpoint. What the model raises is a *serving.ModelError.
func (c *Client) Query(ctx context.Context, endpoint string, spec QuerySpec) (Answer, error) {
	path, err := pathOf("endpoints", endpoint, "/query")
	if err != nil {
		return Answer{}, err
	}
	raw, err := json.Marshal(spec)
	if err != nil {
		return Answer{}, serving.Errorf(serving.InvalidArgument, "the query cannot be written as JSON: %v", err)
	}
	response, err := c.send(ctx, http.MethodPost, path, "application/json", bytes.NewReader(raw))
	if err != nil {
		return Answer{}, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return Answer{}, fmt.Errorf("reading the answer of the server at %s: %w", c.address, err)
	}
	return Answer{Status: response.StatusCode, Header: response.Header, Body: body}, nil
}

// Logs yields the last lines that a backend's workers wrote, or those of all if
// backend is empty, and with follow each new one until ctx ends. An error ends
// the lines; the end of ctx is none.
func (c *Client) Logs(ctx context.Context, backend string, tail int, follow bool) iter.Seq2[LogLine, error] {
	query := url.Values{"tail": {strconv.Itoa(tail)}, "follow": {strconv.FormatBool(follow)}}
	if backend != "" {
		query.Set("backend", backend)
	}
	return func(yield func(LogLine, error) bool) {
		response, err := c.succeed(ctx, http.MethodGet, "/v1/logs?"+query.Encode(), "", nil)
		if err == nil {
			defer response.Body.Close()
			err = readLines(response.Body, yield)
		}
		if err != nil && ctx.Err() == nil {
			yield(LogLine{}, err)
		}
	}
}

func readLines(r io.Reader, yield func(LogLine, error) bool) error {
	lines := json.NewDecoder(r)
	for {
		var line LogLine
		if err := lines.Decode(&line); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("reading log lines: %w", err)
		}
		if !yield(line, nil) {
			return nil
		}
	}
}

// pathOf is the path of a backend or endpoint.
func pathOf(collection, name, suffix string) (string, error) {
	if name == "" || name == "." || name == ".." {
		return "", serving.Errorf(serving.InvalidArgument, "%q is no name in %s", name, collection)
	}
	return "/v1/" + collection + "/" + url.PathEscape(name) + suffix, nil
}

// Verify has an endpoint's backends compute items in every company, and compares.
func (c *Client) Verify(ctx context.Context, endpoint string, spec serving.VerifySpec) (v Verification, err error) {
	path, err := pathOf("endpoints", endpoint, "/verify")
	if err != nil {
		return v, err
	}
	err = c.call(ctx, http.MethodPost, path, spec, &v)
	return v, err
}
