package admin

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"github.com/shoalserve/shoal/batch"
	"github.com/shoalserve/shoal/internal/front/problem"
	"github.com/shoalserve/shoal/internal/serving"
)

// QuerySpec is one query in JSON.
type QuerySpec struct {
	// Data is the model's first argument.
	Data json.RawMessage `json:"data,omitempty"`
	// Kwargs are its keyword arguments.
	Kwargs map[string]json.RawMessage `json:"kwargs,omitempty"`
	// Timeout bounds the wait for the answer; 0 leaves it to the backend.
	Timeout serving.Duration `json:"timeout,omitzero"`
	// Caller is for whom the query is; only a label.
	Caller string `json:"caller,omitempty"`
	// Priority is from batch.MinPriority to batch.MaxPriority.
	Priority int `json:"priority,omitempty"`
}

// jsonHead is the head of an api query whose arguments are JSON.
var jsonHead = []byte(`{"encoding":"json"}`)

// args writes the query as docs/protocol.md wants the payload.
func (q QuerySpec) args() (serving.Args, error) {
	kwargs := q.Kwargs
	if kwargs == nil {
		kwargs = map[string]json.RawMessage{}
	}
	payload, err := json.Marshal(struct {
		Data   json.RawMessage            `json:"data"` // null when absent
		Kwargs map[string]json.RawMessage `json:"kwargs"`
	}{q.Data, kwargs})
	return serving.Args{Head: jsonHead, Payload: payload}, err
}

func (f *Front) query(w http.ResponseWriter, r *http.Request) error {
	arrived := time.Now()
	if err := identityOf(r).AllowQuery(r.PathValue("name")); err != nil {
		return err
	}
	endpoint, err := f.opts.Registry.Endpoint(r.PathValue("name"))
	if err != nil {
		return err
	}
	var spec QuerySpec
	if err := f.decode(w, r, maxQuery, &spec); err != nil {
		return err
	}
	if spec.Timeout < 0 {
		return serving.Errorf(serving.InvalidArgument, "timeout must not be negative, got %v", time.Duration(spec.Timeout))
	}
	if err := errors.Join(serving.CheckCaller(spec.Caller), serving.CheckPriority(spec.Priority)); err != nil {
		return err
	}
	args, err := spec.args()
	if err != nil {
		return serving.Errorf(serving.InvalidArgument, "the query cannot be written as JSON: %v", err)
	}
	if err := checkDepth(args.Payload); err != nil {
		return err
	}
	call := &serving.Call{Origin: batch.API, Args: args, Caller: cmp.Or(callerOf(identityOf(r)), spec.Caller), Priority: spec.Priority}
	err = compute(r.Context(), endpoint, call, limit{arrived, time.Duration(spec.Timeout)})
	if err != nil {
		return f.failQuery(w, r, call, err)
	}
	f.writeResponse(w, r, call.Response)
	return nil
}

// failQuery answers with a query's error, or returns it, as far as the caller sees it.
func (f *Front) failQuery(w http.ResponseWriter, r *http.Request, call *serving.Call, err error) error {
	p := problem.Of(err)
	if p.Traceback == "" || f.seesTraceback(identityOf(r), call) {
		return err
	}
	f.failures.Tell("", call)
	p.Traceback = ""
	f.writeProblem(w, r, p)
	return nil
}

// compute submits a call and waits for its answer, until the client leaves or
// the call's time is over.
func compute(ctx context.Context, endpoint *serving.Endpoint, call *serving.Call, limit limit) error {
	done := make(chan struct{})
	call.Context = &callContext{ctx, call, limit}
	call.Done = func(*serving.Call) { close(done) }
	if err := endpoint.Submit(call); err != nil {
		return err
	}
	timeout := limit.timeoutOf(call)
	expired := time.NewTimer(time.Until(limit.arrived.Add(timeout)))
	defer expired.Stop()
	select {
	case <-done:
		return call.Err
	case <-ctx.Done():
		call.Withdraw()
		return context.Cause(ctx)
	case <-expired.C:
		call.Withdraw()
		return expiredError(endpoint.Name, timeout)
	}
}

// limit is how long a call may take.
type limit struct {
	arrived time.Time
	timeout time.Duration // 0: what the backend says
}

// timeoutOf is the time that a call has; its backend must be chosen.
func (l limit) timeoutOf(call *serving.Call) time.Duration {
	if l.timeout > 0 {
		return l.timeout
	}
	return time.Duration(call.Backend.Config().Timeout)
}

func expiredError(endpoint string, timeout time.Duration) error {
	return serving.Errorf(serving.DeadlineExceeded, "endpoint %q did not answer within %v", endpoint, timeout)
}

// callContext tells the batcher a call's deadline, so that no hold outlasts it.
// The default is known only once a backend took the call, which is when the
// batcher asks. The fronts withdraw calls by timers of their own.
type callContext struct {
	context.Context
	call  *serving.Call
	limit limit
}

// Deadline implements [context.Context].
func (c *callContext) Deadline() (time.Time, bool) {
	return c.limit.arrived.Add(c.limit.timeoutOf(c.call)), true
}

// contentTypes are those of the answers that bring none of their own.
var contentTypes = map[serving.Format]string{
	serving.JSON: "application/json", serving.Text: "text/plain; charset=utf-8", serving.Bytes: "application/octet-stream",
	serving.Full: "", serving.Pickle: "application/octet-stream",
}

func (f *Front) writeResponse(w http.ResponseWriter, r *http.Request, response serving.Response) {
	contentType, ok := contentTypes[response.Format]
	if !ok {
		f.writeError(w, r, serving.Errorf(serving.Internal, "the backend gave an answer of unknown format %d", response.Format))
		return
	}
	problem.AddHeader(w.Header(), response.Header)
	status := response.Status
	if status < 200 || status > 599 {
		status = http.StatusOK
	}
	f.writeBody(w, r, status, contentType, response.Body)
}
