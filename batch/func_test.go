package batch_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shoalserve/shoal/batch"
)

// model is the Func of the tests below: upper case, and what its input asks for.
func model(_ context.Context, in []string) ([]string, error) {
	var out []string
	var items batch.ItemErrors
	for _, in := range in {
		out = append(out, strings.ToUpper(in))
		items = append(items, nil)
		switch in {
		case "error":
			return nil, errModel
		case "panic":
			panic("no such luck")
		case "goexit":
			runtime.Goexit()
		case "nil error":
			var none *fs.PathError
			return nil, none
		case "item":
			items[len(items)-1] = errItem
		case "nil item":
			var none *fs.PathError
			items[len(items)-1] = none
		case "one too many":
			out = append(out, "")
		case "wrong items":
			items = append(items, nil)
		}
	}
	if slices.ContainsFunc(items, func(err error) bool { return err != nil }) || len(items) != len(in) {
		return out, items
	}
	return out, nil
}

func TestWhatAModelDoesWrongHurtsOnlyItsBatch(t *testing.T) {
	const nilPointer = "model function panicked: runtime error: invalid memory address or nil pointer dereference"
	tests := map[string]string{
		"error":        "the model failed",
		"nil error":    nilPointer,
		"nil item":     nilPointer,
		"panic":        "model function panicked: no such luck",
		"goexit":       "model function panicked: runtime.Goexit was called",
		"one too many": `backend "upper" returned 2 answers for a batch of 1`,
		"wrong items":  `backend "upper" returned 2 answers for a batch of 1`,
		"item":         "the item failed",
	}
	for in, want := range tests {
		t.Run(in, func(t *testing.T) {
			b := batch.New(options{Name: "upper"})
			r := b.AttachFunc(1, model)
			_, err := b.Do(t.Context(), in)
			if err == nil || err.Error() != want {
				t.Errorf("got %v, want %s", err, want)
			}
			out, err := b.Do(t.Context(), "next")
			check(t, "next answer", out, "NEXT")
			check(t, "next error", err, nil)
			check(t, "failed", b.Stats().Failed, 1)
			check(t, "stop", r.Stop(t.Context()), nil)
		})
	}
}

func TestItemErrorsGoToTheirOwnQueries(t *testing.T) {
	tests := []struct {
		name string
		out  []string
		err  error
		want string
	}{
		{"beside answers", []string{"A", "", "C"}, batch.ItemErrors{nil, errItem, nil}, "A, the item failed, C"},
		{"wrapped", []string{"A", "", "C"}, fmt.Errorf("some: %w", batch.ItemErrors{nil, errItem, nil}), "A, the item failed, C"},
		{"without answers, when all failed", nil, batch.ItemErrors{errItem, errModel, errItem}, "the item failed, the model failed, the item failed"},
		{"without answers, when not all failed", nil, batch.ItemErrors{errItem, nil, errItem},
			`the item failed, backend "m" returned 0 answers for a batch of 3, the item failed`},
		{"of another number", []string{"A", "B", "C"}, batch.ItemErrors{errItem},
			`backend "m" returned 1 answers for a batch of 3, backend "m" returned 1 answers for a batch of 3, backend "m" returned 1 answers for a batch of 3`},
		{"all nil", []string{"A", "B", "C"}, batch.ItemErrors{nil, nil, nil}, "A, B, C"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := newScene(t, options{Name: "m", Limits: batch.Limits{OnError: batch.FailAll}})
			s.arrive("busy")
			queries := s.arrive("a", "b", "c")
			s.next()
			s.running[0].Finish(test.out, test.err)
			var got []string
			for _, q := range queries {
				if q.Err != nil {
					got = append(got, q.Err.Error())
				} else {
					got = append(got, q.Out)
				}
			}
			check(t, "answers", strings.Join(got, ", "), test.want)
		})
	}
	err := error(batch.ItemErrors{nil, errItem, errModel})
	check(t, "text", err.Error(), "2 of 3 queries failed, the first with: the item failed")
	check(t, "is one of them", errors.Is(err, errModel), true)
}

func TestStopWaitsForTheModelOrEndsItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := batch.New(options{})
		obeys := func(ctx context.Context, in []string) ([]string, error) {
			select {
			case <-ctx.Done():
				return nil, context.Cause(ctx)
			case <-time.After(time.Minute):
				return model(ctx, in)
			}
		}
		var errs []error
		done := func(q *textQuery) { errs = append(errs, q.Err) }

		patient := b.AttachFunc(1, obeys)
		check(t, "submit", b.Submit(&textQuery{In: "a", Done: done}), nil)
		check(t, "patient stop", patient.Stop(t.Context()), nil)

		hasty := b.AttachFunc(1, obeys)
		check(t, "submit", b.Submit(&textQuery{In: "b", Done: done}), nil)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		check(t, "hasty stop", hasty.Stop(ctx), context.DeadlineExceeded)
		synctest.Wait()
		check(t, "errors", fmt.Sprint(errs), fmt.Sprint([]error{nil, batch.ErrStopped}))
		check(t, "stop again", hasty.Stop(t.Context()), nil)
	})
}

func TestARunnerThatWasStoppedFailsItsBatches(t *testing.T) {
	b := batch.New(options{})
	runner := batch.NewRunner(1, model)
	check(t, "stop", runner.Stop(t.Context()), nil)
	b.Attach(1, runner.Run)
	_, err := b.Do(t.Context(), "a")
	check(t, "error", err, batch.ErrStopped)
}

func TestAModelSeesTheOriginOfItsBatch(t *testing.T) {
	b := batch.New(batch.Options[batch.Origin, batch.Origin]{})
	r := b.AttachFunc(1, func(ctx context.Context, in []batch.Origin) ([]batch.Origin, error) {
		return slices.Repeat([]batch.Origin{batch.OriginOf(ctx)}, len(in)), nil
	})
	for _, origin := range []batch.Origin{batch.API, batch.Web} {
		done := make(chan batch.Origin)
		err := b.Submit(&batch.Query[batch.Origin, batch.Origin]{
			Origin: origin,
			Done:   func(q *batch.Query[batch.Origin, batch.Origin]) { go func() { done <- q.Out }() },
		})
		check(t, "submit", err, nil)
		check(t, "origin", <-done, origin)
	}
	check(t, "origin of any other context", batch.OriginOf(t.Context()), batch.API)
	check(t, "stop", r.Stop(t.Context()), nil)
}
