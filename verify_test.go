package shoal_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/shoalserve/shoal"
)

// word is what the models of these tests take.
type word struct {
	Text string `json:"text"`
}

// lengths answers each query with the length of its text, plus what off says of the batch.
func lengths(off func(in []word, i int) float64) *shoal.GoModel[word, map[string]float64] {
	return shoal.Batch(func(_ context.Context, in []word) ([]map[string]float64, error) {
		out := make([]map[string]float64, len(in))
		for i := range in {
			out[i] = map[string]float64{"length": float64(len(in[i].Text)) + off(in, i)}
		}
		return out, nil
	})
}

func verify(t *testing.T, app *shoal.App, v shoal.Verification) shoal.VerifyReport {
	t.Helper()
	reports, err := app.Verify(t.Context(), "m", v)
	if err != nil || len(reports) != 1 {
		t.Fatalf("got %d reports, %v", len(reports), err)
	}
	return reports[0]
}

var words = []any{word{"a"}, word{"bb"}, word{"ccc"}, word{"dddd"}, word{"eeeee"}}

func TestAGoModelThatDependsOnItsCompanyIsFound(t *testing.T) {
	app := newApp(t)
	serve(t, app, lengths(func(in []word, _ int) float64 { return float64(len(in)-1) / 1000 }), shoal.Config{MaxBatchSize: 4})
	r := verify(t, app, shoal.Verification{Items: words, Seed: 7})
	if r.Backend != "m:v1" || r.Items != 5 || r.Leaked != 0 || len(r.Drifts) == 0 {
		t.Errorf("got %+v", r)
	}
	for _, c := range r.Cases {
		company := c.Company == "batch"
		if company != (c.Differed > 0) || c.Differed > c.Answers || (company && c.Differed < c.Answers) {
			t.Errorf("got %+v: each answer in company is wrong, and no other", c)
		}
	}
	again := verify(t, app, shoal.Verification{Items: words, Seed: 7})
	if !slices.Equal(r.Drifts, again.Drifts) {
		t.Errorf("the same seed found %v, and then %v", r.Drifts, again.Drifts)
	}
	if r := verify(t, app, shoal.Verification{Items: words, Compare: shoal.Compare{Tolerance: 0.01}}); r.Drifted != 0 {
		t.Errorf("within the tolerance: %+v", r)
	}
}

func TestAGoModelThatMixesUpItsCompanyIsFound(t *testing.T) {
	app := newApp(t)
	shifted := func(in []word, i int) float64 { return float64(len(in[(i+1)%len(in)].Text) - len(in[i].Text)) }
	serve(t, app, lengths(shifted), shoal.Config{MaxBatchSize: 2})
	if r := verify(t, app, shoal.Verification{Items: words[:2]}); r.Leaked == 0 || r.Leaked != r.Drifted {
		t.Errorf("got %+v: each wrong answer is the other's", r)
	}
}

func TestAGoModelThatDoesNotDependOnItsCompanyIsVerified(t *testing.T) {
	app := newApp(t)
	var most int // the last replica's; it has ended when Verify returns
	m := lengths(func(in []word, _ int) float64 { most = max(most, len(in)); return 0 })
	m.Cost = func(w word) int { return len(w.Text) }
	m.Key = func(w word) string { return w.Text[:1] }
	serve(t, app, m, shoal.Config{MaxBatchSize: 4})
	items := []any{word{"a"}, word{"aa"}, word{"b"}, shoal.Example{Query: map[string]any{"text": "c"}}}
	if r := verify(t, app, shoal.Verification{Items: items}); r.Drifted != 0 || r.Items != 4 {
		t.Errorf("got %+v", r)
	}
	if most != 4 { // b, or c, as often as it fits
		t.Errorf("the largest batch had %d queries", most)
	}
	_, err := app.Verify(t.Context(), "m", shoal.Verification{Items: []any{word{"aaaaa"}}})
	if !errors.Is(err, shoal.ErrInvalidArgument) || !strings.Contains(err.Error(), "item 0 costs 5, and a batch of backend \"m:v1\" at most 4") {
		t.Errorf("what fits no batch: %v", err)
	}
}

// A model that takes texts gets them as they come, also those that it cannot compute.
func TestAGoModelThatReadsItsQueriesIsVerifiedBesideBrokenOnes(t *testing.T) {
	skips := shoal.Batch(func(_ context.Context, in []string) ([]string, error) {
		out := make([]string, 0, len(in))
		for _, text := range in {
			if !strings.Contains(text, "\x00") {
				out = append(out, strings.ToUpper(text))
			}
		}
		return out[:len(in)], nil // those behind it have moved up
	})
	raises := shoal.Batch(func(_ context.Context, in []string) ([]string, error) {
		if slices.ContainsFunc(in, func(text string) bool { return strings.Contains(text, "\x00") }) {
			return nil, errors.New("no text")
		}
		return in, nil
	})
	one := shoal.Batch(func(_ context.Context, in []string) ([]string, error) { return in, nil })
	one.Cost = func(text string) int { return len(text) }
	keyed := shoal.Batch(func(_ context.Context, in []string) ([]string, error) { return in, nil })
	keyed.Key = func(text string) string {
		if strings.Contains(text, "\x00") {
			panic("no text")
		}
		return ""
	}
	type found struct{ answers, differed, raised int }
	for name, c := range map[string]struct {
		model  shoal.Model
		handle found
		web    found
	}{
		"answers of others":     {skips, found{answers: 2, differed: 2}, found{answers: 2, differed: 2}},
		"it raises":             {raises, found{raised: 2}, found{raised: 2}},
		"it costs what it has":  {one, found{answers: 2}, found{}}, // over HTTP it costs more than there is room for
		"its key cannot be had": {keyed, found{}, found{}},
	} {
		t.Run(name, func(t *testing.T) {
			app := newApp(t)
			serve(t, app, c.model, shoal.Config{MaxBatchSize: 2})
			for origin, items := range map[string][]any{"handle": {"a", "b"}, "web": {shoal.Example{JSON: 1}, shoal.Example{JSON: 2}}} {
				want := c.handle
				if origin == "web" {
					want = c.web
				}
				r := verify(t, app, shoal.Verification{Items: items})
				var got found
				for _, of := range r.Cases {
					if of.Company == "broken" {
						got.answers += of.Answers
						got.differed += of.Differed
						got.raised += of.Raised
					} else if of.Differed > 0 {
						t.Errorf("%s: %+v differs", origin, of)
					}
				}
				if got != want {
					t.Errorf("%s: beside broken ones: %+v, want %+v", origin, got, want)
				}
			}
		})
	}
}

func TestWhatCannotBeVerifiedIsRefused(t *testing.T) {
	app := newApp(t)
	serve(t, app, lengths(func([]word, int) float64 { return 0 }), shoal.Config{})
	for about, v := range map[string]shoal.Verification{
		"no items to verify with":    {},
		"item 0: reading the query":  {Items: []any{[]int{1}}},
		"item 1: writing the query":  {Items: []any{word{"a"}, func() {}}},
		"tolerance must not be nega": {Items: words, Compare: shoal.Compare{Tolerance: -1}},
	} {
		if _, err := app.Verify(t.Context(), "m", v); !errors.Is(err, shoal.ErrInvalidArgument) || !strings.Contains(err.Error(), about) {
			t.Errorf("%s: %v", about, err)
		}
	}
	if _, err := app.Verify(t.Context(), "other", shoal.Verification{}); !errors.Is(err, shoal.ErrEndpointNotFound) {
		t.Errorf("got %v", err)
	}
}
