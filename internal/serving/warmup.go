package serving

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/shoalserve/shoal/batch"
)

// WarmUp is what a new replica computes before it gets queries.
type WarmUp struct {
	// Requests are computed one after the other, each at every size. Nil: the
	// examples of the endpoints that the backend serves; empty: none.
	Requests []WarmUpRequest `json:"requests"`
	// BatchSizes are the sizes of the batches. Default 1, 2, 4 … and
	// max_batch_size.
	BatchSizes []int `json:"batch_sizes,omitempty"`
	// EverySize is for models that prepare for each size anew, such as those
	// that are compiled for shapes: all sizes up to max_batch_size.
	EverySize bool `json:"every_size,omitempty"`
	// Timeout bounds all of it. Default 10m.
	Timeout Duration `json:"timeout,omitzero"`
}

// WarmUpRequest is one query: a web query as in an example, or an API query with
// the model's first argument or its keyword arguments.
type WarmUpRequest struct {
	Example
	Data   json.RawMessage            `json:"data,omitempty"`
	Kwargs map[string]json.RawMessage `json:"kwargs,omitempty"`
}

// defaultWarmUp is how long a warm-up may take.
const defaultWarmUp = 10 * time.Minute

// UnmarshalJSON refuses unknown keys.
func (w *WarmUp) UnmarshalJSON(raw []byte) error {
	type plain WarmUp
	var p plain
	if err := strictly(raw, &p); err != nil {
		return err
	}
	*w = WarmUp(p)
	return nil
}

// strictly reads a JSON object and refuses unknown keys.
func strictly(raw []byte, to any) error {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(to); err != nil {
		if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
			return fmt.Errorf("%s cannot be a %s", cmp.Or(strings.TrimPrefix(wrong.Field, "Example."), "it"), wrong.Value)
		}
		return errors.New(strings.TrimPrefix(err.Error(), "json: "))
	}
	return nil
}

// check refuses what cannot be computed.
func (w *WarmUp) check() error {
	if w == nil {
		return nil
	}
	fail := func(format string, args ...any) error {
		return Errorf(InvalidArgument, "config: warm_up: "+format, args...)
	}
	for i, r := range w.Requests {
		if r.api() && !reflect.DeepEqual(r.Example, Example{}) {
			return fail("requests[%d] has data or kwargs, which are for handles' queries, and keys of a web query", i)
		}
		if err := r.Example.check(); err != nil {
			return fail("requests[%d]: %v", i, err)
		}
	}
	for _, size := range w.BatchSizes {
		if size < 1 {
			return fail("batch_sizes must be at least 1, got %d", size)
		}
	}
	switch {
	case w.EverySize && len(w.BatchSizes) > 0:
		return fail("give batch_sizes or every_size, not both")
	case w.Timeout < 0:
		return fail("timeout must not be negative, got %v", time.Duration(w.Timeout))
	}
	return nil
}

// withExamples is the config with the examples of endpoints as what new replicas
// compute first, unless it names requests itself.
func (c Config) withExamples(examples []Example) Config {
	if len(examples) == 0 || (c.WarmUp != nil && c.WarmUp.Requests != nil) {
		return c
	}
	w := WarmUp{}
	if c.WarmUp != nil {
		w = *c.WarmUp
	}
	for _, e := range examples {
		w.Requests = append(w.Requests, WarmUpRequest{Example: e})
	}
	c.WarmUp = &w
	return c
}

// WarmedUpFor is the config with the example of each of the specs' endpoints that
// the backend serves as what new replicas compute first, unless the config itself
// names requests.
func (c Config) WarmedUpFor(backend string, specs map[string]EndpointSpec) Config {
	var examples []Example
	for _, spec := range sorted(specs) {
		_, traffic := spec.Traffic[backend]
		_, shadow := spec.Shadows[backend]
		canary := spec.Canary != nil && spec.Canary.Backend == backend
		if (traffic || shadow || canary || spec.Backend == backend) && spec.Example != nil && spec.Check() == nil {
			examples = append(examples, spec.Example.asTo(spec.Methods))
		}
	}
	return c.withExamples(examples)
}

// WarmedUp is [Config.WarmedUpFor] with the endpoints that there are.
func (r *Registry) WarmedUp(backend string, c Config) Config {
	var examples []Example
	for _, e := range r.Endpoints() {
		if e.uses(backend) && e.Example != nil {
			examples = append(examples, e.Example.asTo(e.Methods))
		}
	}
	return c.withExamples(examples)
}

// asTo is an example with the method that an endpoint's would have.
func (e Example) asTo(methods []string) Example {
	e.Method = e.request("", methods).Method
	return e
}

// sizes are the batch sizes to warm up for, in their order.
func (c Config) sizes(batched bool) []int {
	most := c.withDefaults(batched).MaxBatchSize
	if len(c.WarmUp.BatchSizes) > 0 {
		sizes := slices.DeleteFunc(slices.Clone(c.WarmUp.BatchSizes), func(n int) bool { return n > most })
		slices.Sort(sizes)
		return slices.Compact(sizes)
	}
	var sizes []int
	for n := 1; n < most; {
		sizes = append(sizes, n)
		if c.WarmUp.EverySize {
			n++
		} else {
			n *= 2
		}
	}
	return append(sizes, most)
}

// Rehearsal is one query that a new replica computes before it gets others.
type Rehearsal[In, Out any] struct {
	Origin batch.Origin
	// Make makes the query's input, anew for each copy.
	Make func() (In, error)
	// Judge looks at an answer; nil: each is good.
	Judge func(Out) error
}

// launch starts an instance of a version and warms it up.
func (p *Pool[In, Out]) launch(ctx context.Context, v *version[In, Out], spec ReplicaSpec) (Instance[In, Out], error) {
	instance, err := v.runtime.Start(ctx, spec)
	if err != nil || v.rehearse == nil {
		return instance, err
	}
	if err := p.warmUp(ctx, v, instance, spec); err != nil {
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = instance.Stop(stop) // why it is not used says err
		return nil, err
	}
	return instance, nil
}

// warmUp has an instance compute the backend's rehearsals at each batch size.
// What goes wrong is a *LoadError.
func (p *Pool[In, Out]) warmUp(ctx context.Context, v *version[In, Out], instance Instance[In, Out], spec ReplicaSpec) error {
	c := spec.Config
	if c.WarmUp == nil {
		c.WarmUp = &WarmUp{}
	}
	rehearsals := v.rehearse(c, instance)
	if len(rehearsals) == 0 {
		return nil
	}
	timeout := time.Duration(c.WarmUp.Timeout)
	if timeout == 0 {
		timeout = defaultWarmUp
	}
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("it took longer than %v", timeout))
	defer cancel()
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	watched := make(chan struct{})
	go func() { // ends with ctx
		defer close(watched)
		select {
		case <-instance.Exited():
			end(instance.Err())
		case <-ctx.Done():
		}
	}()
	defer func() { end(nil); <-watched }()
	began, batches := time.Now(), uint64(0)
	for i, r := range rehearsals {
		for _, size := range c.sizes(instance.Batched()) {
			batches++
			if err := p.rehearseOnce(ctx, instance, r, batches, size); err != nil {
				return p.coldError(err, i, len(rehearsals), size)
			}
		}
	}
	p.log.Info("replica warmed up", "replica", spec.Index, "batches", batches, "took", time.Since(began).Round(time.Millisecond))
	return nil
}

// rehearseOnce has an instance compute copies of a query as one batch of a size.
func (p *Pool[In, Out]) rehearseOnce(ctx context.Context, instance Instance[In, Out], r Rehearsal[In, Out], id uint64, size int) (err error) {
	defer func() {
		if v := recover(); v != nil { // in a callback of the user's, such as Cost
			err = fmt.Errorf("a panic: %v", v)
		}
	}()
	first, err := r.Make()
	if err != nil {
		return err
	}
	if p.cost != nil { // a batch of that size holds fewer of it
		size = max(1, size/max(1, p.cost(first)))
	}
	in := []In{first}
	for len(in) < size {
		more, err := r.Make()
		if err != nil {
			return err
		}
		in = append(in, more)
	}
	out, err := batch.Rehearse(ctx, p.name, id, r.Origin, in, instance.Run)
	if err != nil {
		return err
	}
	for _, answer := range out {
		if r.Judge == nil {
			break
		}
		if err := r.Judge(answer); err != nil {
			return err
		}
	}
	return nil
}

// coldError says where a warm-up failed.
func (p *Pool[In, Out]) coldError(err error, request, requests, size int) error {
	failure := &LoadError{Backend: p.name, Type: "WarmUpFailed"}
	what := "its warm-up"
	if requests > 1 {
		what = fmt.Sprintf("request %d of its warm-up", request+1)
	}
	said := err.Error()
	if model, ok := errors.AsType[*ModelError](err); ok {
		said, failure.Traceback = model.Type+": "+model.Message, model.Traceback // and not Err: callers would take it for a query's
	} else {
		failure.Err = err
	}
	if p, ok := errors.AsType[*batch.PanicError](err); ok {
		failure.Traceback = string(p.Stack)
	}
	failure.Message = fmt.Sprintf("%s failed at batch size %d: %s", what, size, said)
	return failure
}

// rehearsals are a config's warm-up requests as calls.
func rehearsals(c Config, of Instance[*Call, Response]) []Rehearsal[*Call, Response] {
	var all []Rehearsal[*Call, Response]
	for _, r := range c.WarmUp.Requests {
		all = append(all, Rehearsal[*Call, Response]{Origin: r.origin(), Judge: wellAnswered, Make: func() (*Call, error) {
			call, err := r.call()
			if err == nil {
				err = decode(of, "", call)
			}
			return call, err
		}})
	}
	return all
}

// api reports whether the request is a handle's.
func (r *WarmUpRequest) api() bool { return r.Data != nil || r.Kwargs != nil }

func (r *WarmUpRequest) origin() batch.Origin {
	if r.api() {
		return batch.API
	}
	return batch.Web
}

// call is the request as a backend gets it.
func (r *WarmUpRequest) call() (*Call, error) {
	if !r.api() {
		request := r.Example.request("", nil)
		request.ID = "warm-up"
		return &Call{Origin: batch.Web, Request: request}, nil
	}
	kwargs := r.Kwargs
	if kwargs == nil {
		kwargs = map[string]json.RawMessage{}
	}
	payload, err := json.Marshal(map[string]any{"data": r.Data, "kwargs": kwargs})
	return &Call{Origin: batch.API, Args: Args{Head: []byte(`{"encoding":"json"}`), Payload: payload}}, err
}

func wellAnswered(r Response) error {
	if r.Status >= http.StatusBadRequest {
		return fmt.Errorf("it answered with status %d", r.Status)
	}
	return nil
}
