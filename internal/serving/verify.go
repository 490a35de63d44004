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

// Verify verifies each backend that gets an endpoint's traffic, with the endpoint's
// example if there are no items. Its errors are those of [Verifier.Verify].
func (r *Registry) Verify(ctx context.Context, endpoint string, spec VerifySpec) ([]VerifyReport, error) {
	e, err := r.Endpoint(endpoint)
	if err != nil {
		return nil, err
	}
	if len(spec.Items) == 0 && e.Example != nil {
		spec.Items = []WarmUpRequest{{Example: e.Example.asTo(e.Methods)}}
	}
	reports := []VerifyReport{}
	for _, backend := range e.Backends() {
		v, ok := backend.(Verifier)
		if !ok {
			return nil, Errorf(InvalidArgument, "backend %q cannot be verified", backend.Name())
		}
		report, err := v.Verify(ctx, spec)
		if err != nil {
			return nil, fmt.Errorf("verifying backend %q: %w", backend.Name(), err)
		}
		reports = append(reports, report)
	}
	return reports, nil
}

// verify has a replica of a pool's model, started for it, compute the spec's items.
func verify[In, Out any](ctx context.Context, p *Pool[In, Out], s subject[In, Out], spec VerifySpec) (report VerifyReport, err error) {
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
	v := &verification[In, Out]{
		pool: p, subject: s, instance: instance, spec: spec, dice: rand.New(rand.NewPCG(spec.Seed, 1)),
		report: VerifyReport{Backend: p.Name(), Items: len(spec.Items), Drifts: []Drift{}},
	}
	return v.report, v.run(ctx, config.MaxBatchSize)
}

// verification is one run of Verify.
type verification[In, Out any] struct {
	pool     *Pool[In, Out]
	subject  subject[In, Out]
	instance Instance[In, Out]
	spec     VerifySpec
	dice     *rand.Rand
	costs    []int    // of each item
	alone    []Answer // of each item
	report   VerifyReport
}

// maxDrifts bounds the drifts of a report.
const maxDrifts = 20

func (v *verification[In, Out]) run(ctx context.Context, most int) error {
	groups, err := v.groups(most)
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
func (v *verification[In, Out]) trySize(ctx context.Context, company int, groups [][]int, size int, broken bool) error {
	for _, group := range groups {
		if broken && !v.hasBroken(group[0]) {
			continue
		}
		order := slices.Clone(group)
		v.dice.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
		room := size
		if broken {
			room-- // the rest is the broken one's
		}
		for start := 0; start < len(order); {
			batch := v.fill(order, start, room)
			start += max(1, len(batch))
			if len(batch) == 0 || (len(batch) == 1 && !broken) {
				continue // it costs too much to have company
			}
			if err := v.try(ctx, company, batch, broken); err != nil {
				return err
			}
		}
	}
	return nil
}

// fill is as many items from a start on, and from the first again, as cost what there
// is room for.
func (v *verification[In, Out]) fill(order []int, start, room int) (batch []int) {
	for i := start; ; i++ {
		item := order[i%len(order)]
		if room -= v.costs[item]; room < 0 {
			return batch
		}
		batch = append(batch, item)
	}
}

// company begins a case of the report and returns its place.
func (v *verification[In, Out]) company(kind string, size int) int {
	v.report.Cases = append(v.report.Cases, VerifyCase{Company: kind, Size: size})
	return len(v.report.Cases) - 1
}

// try computes items together and compares each answer with the one it gets alone.
func (v *verification[In, Out]) try(ctx context.Context, company int, items []int, broken bool) error {
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

func (v *verification[In, Out]) drifted(c VerifyCase, item int, d Difference, leak int) {
	v.report.Drifted++
	if leak >= 0 {
		v.report.Leaked++
	}
	if len(v.report.Drifts) < maxDrifts {
		v.report.Drifts = append(v.report.Drifts, Drift{Item: item, Company: c.Company, Size: c.Size, What: d.What, Largest: d.Largest, Leak: leak})
	}
}

// leak is the item of the batch whose own answer another item got; -1: none's.
func (v *verification[In, Out]) leak(items []int, item int, got Answer) int {
	for _, other := range items {
		if other != item && got.Err == nil && v.spec.Compare.Answers(v.alone[other], got).What == "" {
			return other
		}
	}
	return -1
}

// groups are the items that may share a batch.
func (v *verification[In, Out]) groups(most int) (groups [][]int, err error) {
	places := make(map[batch.Group]int)
	for i := range v.spec.Items {
		in, key, err := v.input(i)
		if err != nil {
			return nil, err
		}
		cost := 1
		if v.pool.cost != nil {
			cost = max(1, v.pool.cost(in))
		}
		v.subject.release(in)
		if cost > most {
			return nil, Errorf(InvalidArgument, "item %d costs %d, and a batch of backend %q at most %d", i, cost, v.pool.Name(), most)
		}
		v.costs = append(v.costs, cost)
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

// input is an item as the replica takes it.
func (v *verification[In, Out]) input(i int) (In, batch.Group, error) {
	in, group, err := v.subject.input(v.instance, v.spec.Items[i])
	if err != nil {
		return in, group, fmt.Errorf("item %d: %w", i, err)
	}
	return in, group, nil
}

// hasBroken reports whether there are broken queries that share batches with an item.
func (v *verification[In, Out]) hasBroken(i int) bool {
	_, ok := v.subject.broken(v.instance, v.spec.Items[i])
	return ok
}

// compute has the replica compute items as one batch, after a broken one if it is to be
// so, and returns their answers.
func (v *verification[In, Out]) compute(ctx context.Context, items []int, broken bool) ([]Answer, error) {
	var batch []In
	if broken {
		in, _ := v.subject.broken(v.instance, v.spec.Items[items[0]])
		batch = append(batch, in)
	}
	neighbors, origin := len(batch), v.spec.Items[items[0]].origin()
	for _, i := range items {
		in, _, err := v.input(i)
		if err != nil {
			return nil, err
		}
		batch = append(batch, in)
	}
	v.report.Batches++
	ctx, cancel := context.WithTimeoutCause(ctx, time.Duration(v.pool.Config().Timeout), Errorf(DeadlineExceeded, "a batch of %d did not end within the backend's timeout", len(batch)))
	defer cancel()
	out, errs, err := v.together(ctx, origin, batch)
	if err != nil {
		return nil, err
	}
	answers := make([]Answer, len(items))
	for i := range answers {
		answers[i] = v.subject.answer(origin, out[neighbors+i], errs[neighbors+i])
	}
	return answers, nil
}

// together computes inputs as one batch. When the replica dies, that is an error.
func (v *verification[In, Out]) together(ctx context.Context, origin batch.Origin, in []In) ([]Out, []error, error) {
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
	return batch.Together(ctx, v.pool.Name(), uint64(v.report.Batches), origin, in, v.instance.Run, v.subject.answered)
}
