package telemetry

import (
	"bytes"
	"context"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
)

func texts(lines []Line) []string {
	var out []string
	for _, l := range lines {
		out = append(out, l.Line)
	}
	return out
}

func write(l *Lines, backend string, texts ...string) {
	for _, text := range texts {
		l.Write(backend, 1, "stdout", text)
	}
}

func TestTailGivesTheLastLinesInOrder(t *testing.T) {
	l := NewLines(nil)
	if got := l.Tail("", 10); len(got) != 0 {
		t.Errorf("before the first line: %v", got)
	}
	write(l, "a", "1", "2")
	write(l, "b", "3")
	write(l, "a", "4")
	for _, c := range []struct {
		backend string
		n       int
		want    []string
	}{
		{"", 100, []string{"1", "2", "3", "4"}},
		{"", 2, []string{"3", "4"}},
		{"a", 2, []string{"2", "4"}},
		{"b", 2, []string{"3"}},
		{"c", 2, nil},
		{"", 0, nil},
		{"", -1, nil},
	} {
		if got := texts(l.Tail(c.backend, c.n)); !slices.Equal(got, c.want) {
			t.Errorf("the last %d of %q: %v, want %v", c.n, c.backend, got, c.want)
		}
	}
	if got := l.Tail("b", 1)[0]; got.Backend != "b" || got.Replica != 1 || got.Stream != "stdout" || got.Time.IsZero() {
		t.Errorf("got %+v", got)
	}
}

func TestOldLinesMakeRoomForNewOnes(t *testing.T) {
	l := NewLines(nil)
	for _, n := range []int{keptLines - 1, 1, 1, 2 * keptLines} {
		for range n {
			write(l, "a", "old")
		}
		write(l, "b", "x", "y", "z")
		if got := texts(l.Tail("", 3)); !slices.Equal(got, []string{"x", "y", "z"}) {
			t.Errorf("got %v", got)
		}
	}
	got := l.Tail("", 1<<30)
	if len(got) != keptLines || got[0].Line != "old" || got[len(got)-1].Line != "z" {
		t.Errorf("%d lines are kept", len(got))
	}
	for i := range keptLines { // each in its place, wherever the ring begins
		write(l, "c", strconv.Itoa(i))
	}
	for i, line := range l.Tail("c", keptLines) {
		if line.Line != strconv.Itoa(i) {
			t.Fatalf("line %d is %s", i, line.Line)
		}
	}
}

func TestTheMirrorNamesTheBackend(t *testing.T) {
	var mirror bytes.Buffer
	l := NewLines(&mirror)
	write(l, "a", "1", "")
	if got := mirror.String(); got != "a | 1\na | \n" {
		t.Errorf("got %q", got)
	}
}

// followed runs a follower in a bubble and collects what it gets.
type followed struct {
	mu    sync.Mutex
	lines []Line
}

func (f *followed) all(lines iter.Seq[Line]) {
	for line := range lines {
		f.mu.Lock()
		f.lines = append(f.lines, line)
		f.mu.Unlock()
	}
}

func (f *followed) texts() []string {
	synctest.Wait()
	f.mu.Lock()
	defer f.mu.Unlock()
	return texts(f.lines)
}

func TestAFollowerGetsThePastAndThenWhatComes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := NewLines(nil)
		write(l, "a", "1", "2", "3")
		write(l, "b", "4")
		ctx, cancel := context.WithCancel(t.Context())
		var all, a followed
		var following sync.WaitGroup
		following.Go(func() { all.all(l.Follow(ctx, "", 2)) })
		following.Go(func() { a.all(l.Follow(ctx, "a", 100)) })
		synctest.Wait()
		write(l, "a", "5")
		write(l, "b", "6")
		if got := all.texts(); !slices.Equal(got, []string{"3", "4", "5", "6"}) {
			t.Errorf("all: %v", got)
		}
		if got := a.texts(); !slices.Equal(got, []string{"1", "2", "3", "5"}) {
			t.Errorf("a: %v", got)
		}
		cancel()
		following.Wait()
		if len(l.followers) != 0 {
			t.Errorf("%d followers are left", len(l.followers))
		}
		write(l, "a", "late")
		if got := a.texts(); slices.Contains(got, "late") {
			t.Error("a follower that left gets lines")
		}
	})
}

func TestAFollowerThatBreaksOffLeavesNothingBehind(t *testing.T) {
	l := NewLines(nil)
	write(l, "a", "1", "2")
	for range l.Follow(t.Context(), "", 2) {
		break
	}
	for line := range l.Follow(t.Context(), "", 1) {
		if line.Line == "3" {
			break
		}
		write(l, "a", "3")
	}
	if len(l.followers) != 0 {
		t.Errorf("%d followers are left", len(l.followers))
	}
}

func TestASlowFollowerLosesLinesAndIsTold(t *testing.T) {
	l := NewLines(nil)
	write(l, "a", "first")
	const lost = 7
	var got []string
	for line := range l.Follow(t.Context(), "a", 1) {
		got = append(got, line.Line)
		switch len(got) {
		case 1: // while it is slow
			for n := range followerRoom + lost {
				write(l, "a", strconv.Itoa(n))
			}
			write(l, "b", "not for this one")
		case 2: // there is room for one: the note
			write(l, "a", "lost too")
		case followerRoom + 1:
			write(l, "a", "last")
		}
		if line.Line == "last" {
			break
		}
	}
	want := []string{"first"}
	for n := range followerRoom {
		want = append(want, strconv.Itoa(n))
	}
	want = append(want, fmt.Sprintf("… %d lines were lost: the reader is too slow …", lost), "… 1 lines were lost: the reader is too slow …", "last")
	if !slices.Equal(got, want) {
		t.Errorf("got %d lines, the last of them %q", len(got), got[max(0, len(got)-4):])
	}
}

func TestManyWritersAndFollowers(t *testing.T) {
	l := NewLines(nil)
	ctx, cancel := context.WithCancel(t.Context())
	var following, writing sync.WaitGroup
	for range 4 {
		following.Go(func() {
			for range l.Follow(ctx, "", 5) { //nolint:revive // reading is all
			}
		})
		writing.Go(func() {
			for n := range 2000 {
				write(l, "a", strconv.Itoa(n))
				if n%100 == 0 {
					l.Tail("a", 10)
				}
			}
		})
	}
	writing.Wait()
	cancel()
	following.Wait()
	if len(l.Tail("", keptLines)) != 8000 || len(l.followers) != 0 {
		t.Errorf("%d lines, %d followers", len(l.kept), len(l.followers))
	}
}

func BenchmarkTail(b *testing.B) {
	l := NewLines(nil)
	for range keptLines {
		write(l, "a", "a line")
	}
	b.ReportAllocs()
	for b.Loop() {
		l.Tail("", 100)
	}
}
