package batch

import (
	"context"
	"errors"
	"slices"
	"testing"
)

func TestARehearsalIsOneBatchOfItsOwn(t *testing.T) {
	var ids []uint64
	run := func(b *Batch[int, int]) {
		ids = append(ids, b.ID)
		if b.Origin != Web {
			t.Errorf("its origin is %v", b.Origin)
		}
		out := make([]int, len(b.Queries))
		for i, in := range b.Inputs() {
			out[i] = in * in
		}
		b.Finish(out, nil)
	}
	for id, in := range map[uint64][]int{1: {1}, 2: {1, 2, 3}} {
		ids = nil
		out, err := Rehearse(t.Context(), "m", id, Web, in, run)
		if err != nil || len(out) != len(in) || out[len(in)-1] != len(in)*len(in) {
			t.Errorf("%v became %v, %v", in, out, err)
		}
		if !slices.Equal(ids, []uint64{1<<63 + id}) {
			t.Errorf("the batches were %v", ids)
		}
	}
}

func TestARehearsalReportsTheFirstError(t *testing.T) {
	odd := errors.New("odd")
	_, err := Rehearse(t.Context(), "m", 1, API, []int{0, 1, 2}, func(b *Batch[int, int]) {
		b.Finish(b.Inputs(), ItemErrors{nil, odd, nil})
	})
	if !errors.Is(err, odd) {
		t.Errorf("got %v", err)
	}
	_, err = Rehearse(t.Context(), "m", 1, API, []int{0, 1, 2}, func(b *Batch[int, int]) { b.Finish([]int{1}, nil) })
	if wrong, ok := errors.AsType[*CountError](err); !ok || wrong.Name != "m" || wrong.Expected != 3 {
		t.Errorf("got %v", err)
	}
}

func TestARehearsalEndsWithItsContext(t *testing.T) {
	gone := errors.New("gone")
	ctx, cancel := context.WithCancelCause(t.Context())
	var late *Batch[int, int]
	_, err := Rehearse(ctx, "m", 1, API, []int{0, 1}, func(b *Batch[int, int]) {
		late = b
		cancel(gone)
	})
	if !errors.Is(err, gone) {
		t.Errorf("got %v", err)
	}
	late.Finish([]int{1, 2}, nil) // which must not block
}

func TestARehearsalThatIsGivenBackFails(t *testing.T) {
	_, err := Rehearse(t.Context(), "m", 1, API, []int{0, 1}, (*Batch[int, int]).Return)
	if !errors.Is(err, ErrStopped) {
		t.Errorf("got %v", err)
	}
}
