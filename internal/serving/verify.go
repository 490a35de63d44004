package serving

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/shoalserve/shoal/batch"
)

// VerifySpec is what [Verifier.Verify] computes.
type VerifySpec struct {
	// Items are the queries; none: the endpoint's example.
	Items []WarmUpRequest `json:"items,omitempty"`
	// Compare says when two answers are the same.
	Compare Compare `json:"compare,omitzero"`
	// Seed is that of the order of the items. The same seed is the same order.
	Seed uint64 `json:"seed,omitempty"`
}

// Verifier is a [Backend] that can tell whether its model gives the same answers in
// any company.
type Verifier interface {
	// Verify computes each item alone, in every batch size, in other orders and beside
	// broken ones, on a replica of its own that gets no other queries, and compares.
	// It returns an InvalidArgument error for items that the model cannot take, and
	// what the replica's start or death is.
	Verify(ctx context.Context, spec VerifySpec) (VerifyReport, error)
}

// VerifyReport is what came of a verification.
type VerifyReport struct {
	Backend string `json:"backend"`
	Items   int    `json:"items"`
	Batches int    `json:"batches"`
	// Cases are the companies that items were computed in, in the order of their kinds and sizes.
	Cases []VerifyCase `json:"cases"`
	// Drifts are the first answers that differed, at most 20.
	Drifts []Drift `json:"drifts"`
	// Drifted counts all answers that differed, Leaked those of them that were another
	// item's.
	Drifted int `json:"drifted"`
	Leaked  int `json:"leaked"`
}

// VerifyCase is one kind of company.
type VerifyCase struct {
	// Company is "alone", "batch" or "broken".
	Company string `json:"company"`
	Size    int    `json:"size"`
	// Answers were compared, of which Differed did differ.
	Answers  int `json:"answers"`
	Differed int `json:"differed"`
	// Raised counts batches that failed as a whole.
	Raised int `json:"raised"`
	// Largest is the largest distance of two numbers.
	Largest float64 `json:"largest"`
}

// Drift is an answer that was another one than the item gets alone.
type Drift struct {
	Item    int     `json:"item"`
	Company string  `json:"company"`
	Size    int     `json:"size"`
	What    string  `json:"what"`
	Largest float64 `json:"largest"`
	// Leak is the item whose answer it is; -1: nobody's.
	Leak int `json:"leak"`
}

// ExampleItems are the endpoint's example as an item to verify with; none without one.
func (e *Endpoint) ExampleItems() []WarmUpRequest {
	if e.Example == nil {
		return nil
	}
	return []WarmUpRequest{{Example: e.Example.asTo(e.Methods)}}
}

// Verify implements [Verifier].
func (p CallPool) Verify(ctx context.Context, spec VerifySpec) (report VerifyReport, err error) {
	if len(spec.Items) == 0 {
		return report, Errorf(InvalidArgument, "backend %q: there are no items to verify with; give some, or give the endpoint an example", p.Name())
	}
	if err := spec.Compare.check(); err != nil {
		return report, err
	}
	config := p.Config()
	// Beyond all replicas that queries reach.
	instance, err := p.version.Load().runtime.Start(ctx, ReplicaSpec{Backend: p.Name(), Index: maxReplicas, Config: config})
	if err != nil {
		return report, err
	}
	defer func() {
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		_ = instance.Stop(stop) // its answers are there
	}()
	v := &verification{
		pool: p, instance: instance, spec: spec, dice: rand.New(rand.NewPCG(spec.Seed, 1)),
		report: VerifyReport{Backend: p.Name(), Items: len(spec.Items), Drifts: []Drift{}},
	}
	return v.report, v.run(ctx, config.MaxBatchSize)
}

// verification is one run of Verify.
type verification struct {
	pool     CallPool
	instance Instance[*Call, Response]
	spec     VerifySpec
	dice     *rand.Rand
	alone    []Answer // of each item
	report   VerifyReport
}

// maxDrifts bounds the drifts of a report.
const maxDrifts = 20

func (v *verification) run(ctx context.Context, most int) error {
	groups, err := v.groups()
	if err != nil {
		return err
	}
	v.alone = make([]Answer, len(v.spec.Items))
	for i := range v.alone {
		answers, err := v.compute(ctx, []int{i}, false)
		if err != nil {
			return err
		}
		v.alone[i] = answers[0]
	}
	again := v.company("alone", 1)
	for i := range v.alone { // a model that is not the same to itself is no other's fault
		if err := v.try(ctx, again, []int{i}, false); err != nil {
			return err
		}
	}
	for size := 2; size <= most; size = min(2*size, max(most, size+1)) {
		for _, kind := range []string{"batch", "broken"} {
			if err := v.trySize(ctx, v.company(kind, size), groups, size, kind == "broken"); err != nil {
				return err
			}
		}
	}
	return nil
}

// trySize computes each item at least once in batches of a size, in a random order.
func (v *verification) trySize(ctx context.Context, company int, groups [][]int, size int, broken bool) error {
	for _, group := range groups {
		if broken && v.brokenFor(group[0]) == nil {
			continue
		}
		order := slices.Clone(group)
		v.dice.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
		members := size
		if broken {
			members-- // the rest is the broken one's
		}
		for start := 0; start < len(order); start += members {
			batch := make([]int, members)
			for i := range batch {
				batch[i] = order[(start+i)%len(order)]
			}
			if err := v.try(ctx, company, batch, broken); err != nil {
				return err
			}
		}
	}
	return nil
}

// company begins a case of the report and returns its place.
func (v *verification) company(kind string, size int) int {
	v.report.Cases = append(v.report.Cases, VerifyCase{Company: kind, Size: size})
	return len(v.report.Cases) - 1
}

// try computes items together and compares each answer with the one it gets alone.
func (v *verification) try(ctx context.Context, company int, items []int, broken bool) error {
	answers, err := v.compute(ctx, items, broken)
	if err != nil {
		return err
	}
	c := &v.report.Cases[company]
	if broken && raised(answers, v.alone, items) {
		c.Raised++ // which the server isolates: the others are computed again
		return nil
	}
	for i, item := range items {
		c.Answers++
		d := v.spec.Compare.Answers(v.alone[item], answers[i])
		c.Largest = max(c.Largest, d.Largest)
		if d.What == "" {
			continue
		}
		c.Differed++
		v.drifted(*c, item, d, v.leak(items, item, answers[i]))
	}
	return nil
}

// raised reports whether all failed though they do not alone.
func raised(answers, alone []Answer, items []int) bool {
	for i, item := range items {
		if answers[i].Err == nil || alone[item].Err != nil {
			return false
		}
	}
	return true
}

func (v *verification) drifted(c VerifyCase, item int, d Difference, leak int) {
	v.report.Drifted++
	if leak >= 0 {
		v.report.Leaked++
	}
	if len(v.report.Drifts) < maxDrifts {
		v.report.Drifts = append(v.report.Drifts, Drift{Item: item, Company: c.Company, Size: c.Size, What: d.What, Largest: d.Largest, Leak: leak})
	}
}

// leak is the item of the batch whose own answer another item got; -1: none's.
func (v *verification) leak(items []int, item int, got Answer) int {
	for _, other := range items {
		if other != item && got.Err == nil && v.spec.Compare.Answers(v.alone[other], got).What == "" {
			return other
		}
	}
	return -1
}

// groups are the items that may share a batch.
func (v *verification) groups() (groups [][]int, err error) {
	places := make(map[batch.Group]int)
	for i := range v.spec.Items {
		call, err := v.call(v.spec.Items[i])
		if err != nil {
			return nil, fmt.Errorf("item %d: %w", i, err)
		}
		key := batch.Group{Origin: call.Origin, Key: call.BatchKey()}
		call.releaseRow()
		place, ok := places[key]
		if !ok {
			place = len(groups)
			places[key] = place
			groups = append(groups, nil)
		}
		groups[place] = append(groups[place], i)
	}
	return groups, nil
}

// call makes the call of an item.
func (v *verification) call(item WarmUpRequest) (*Call, error) {
	call, err := item.call()
	if err != nil {
		return nil, Errorf(InvalidArgument, "it cannot be written as JSON: %v", err)
	}
	return call, decode(v.instance, v.pool.Name(), call)
}

// brokenFor is a query that the model cannot compute and that shares batches with the
// item; nil where every such query is refused before it is in a batch.
func (v *verification) brokenFor(item int) *Call {
	call, err := v.call(v.spec.Items[item])
	if err != nil || call.row != nil {
		call.releaseRow()
		return nil
	}
	if call.Request != nil {
		broken := *call.Request
		broken.Target, broken.Body = "/", []byte("\x00 no query of anybody's")
		return &Call{Origin: call.Origin, Method: call.Method, Request: &broken}
	}
	return &Call{Origin: call.Origin, Method: call.Method, Args: Args{Head: jsonHead, Payload: []byte(`{"data": "\u0000", "kwargs": {}}`)}}
}

var jsonHead = []byte(`{"encoding":"json"}`)

// compute has the replica compute items as one batch, after a broken one if it is to be
// so, and returns their answers.
func (v *verification) compute(ctx context.Context, items []int, broken bool) ([]Answer, error) {
	var calls []*Call
	if broken {
		calls = append(calls, v.brokenFor(items[0]))
	}
	for _, i := range items {
		call, err := v.call(v.spec.Items[i])
		if err != nil {
			return nil, fmt.Errorf("item %d: %w", i, err)
		}
		calls = append(calls, call)
	}
	v.report.Batches++
	ctx, cancel := context.WithTimeoutCause(ctx, time.Duration(v.pool.Config().Timeout), Errorf(DeadlineExceeded, "a batch of %d did not end within the backend's timeout", len(calls)))
	defer cancel()
	responses, errs, err := v.together(ctx, calls)
	if err != nil {
		return nil, err
	}
	answers := make([]Answer, len(items))
	for i := range answers {
		at := i + len(calls) - len(items)
		answers[i] = Answer{Err: errs[at], Response: responses[at]}
	}
	return answers, nil
}

// together computes calls as one batch. When the replica dies, that is an error.
func (v *verification) together(ctx context.Context, calls []*Call) ([]Response, []error, error) {
	ctx, died := context.WithCancelCause(ctx)
	watched := make(chan struct{})
	go func() { // ends with ctx
		defer close(watched)
		select {
		case <-v.instance.Exited():
			died(v.instance.Err())
		case <-ctx.Done():
		}
	}()
	defer func() { died(nil); <-watched }()
	return batch.Together(ctx, v.pool.Name(), uint64(v.report.Batches), calls[0].Origin, calls, v.instance.Run, writeOut)
}

// writeOut brings the answer of a query to its final form.
func writeOut(q *batch.Query[*Call, Response]) {
	call := q.In
	call.releaseRow()
	if q.Err == nil && !q.Out.Item.IsZero() {
		call.Response = q.Out
		call.writeItem(false)
		q.Out, q.Err = call.Response, call.Err
	}
}
