package admin

import (
	"context"
	"iter"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/shoalserve/shoal/internal/serving"
	"github.com/shoalserve/shoal/internal/telemetry"
)

var _ Logs = (*telemetry.Lines)(nil)

// fakeLogs has some lines and yields those that are sent to live.
type fakeLogs struct {
	lines []LogLine
	live  chan LogLine
	ended chan struct{}
}

func (f *fakeLogs) Tail(backend string, n int) []LogLine {
	var lines []LogLine
	for _, line := range f.lines {
		if backend == "" || line.Backend == backend {
			lines = append(lines, line)
		}
	}
	return lines[max(0, len(lines)-n):]
}

func (f *fakeLogs) Follow(ctx context.Context, backend string, n int) iter.Seq[LogLine] {
	return func(yield func(LogLine) bool) {
		defer close(f.ended)
		for _, line := range f.Tail(backend, n) {
			if !yield(line) {
				return
			}
		}
		for {
			select {
			case line := <-f.live:
				if !yield(line) {
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}
}

func newFakeLogs() *fakeLogs {
	f := &fakeLogs{live: make(chan LogLine), ended: make(chan struct{})}
	for i, backend := range []string{"a", "b", "a"} {
		f.lines = append(f.lines, LogLine{Time: time.Unix(int64(i), 0).UTC(), Backend: backend, Replica: i, Stream: "stdout", Line: "line <" + backend + ">"})
	}
	return f
}

func TestTheLastLines(t *testing.T) {
	logs := newFakeLogs()
	s := serve(t, Options{Logs: logs})
	for name, c := range map[string]struct {
		backend string
		tail    int
		want    []LogLine
	}{
		"all":            {"", 10, logs.lines},
		"the last":       {"", 1, logs.lines[2:]},
		"of one backend": {"b", 10, logs.lines[1:2]},
	} {
		t.Run(name, func(t *testing.T) {
			var got []LogLine
			for line, err := range s.client.Logs(t.Context(), c.backend, c.tail, false) {
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, line)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestLinesOfABackendThatDoesNotExist(t *testing.T) {
	s := serve(t, Options{Logs: newFakeLogs()})
	for _, err := range s.client.Logs(t.Context(), "c", 10, false) {
		if serving.Describe(err).Code == serving.BackendNotFound {
			return
		}
		t.Fatalf("got %v", err)
	}
	t.Error("there is neither a line nor an error")
}

func TestFollowingEndsWithTheReader(t *testing.T) {
	logs := newFakeLogs()
	s := serve(t, Options{Logs: logs})
	count := 0
	for line, err := range s.client.Logs(t.Context(), "", 3, true) {
		if err != nil {
			t.Fatal(err)
		}
		if count++; count == 3 {
			logs.live <- LogLine{Line: "live"}
		}
		if line.Line == "live" {
			break
		}
	}
	if count != 4 {
		t.Errorf("%d lines came", count)
	}
	next(t, logs.ended)
}

func TestFollowingEndsWithTheContextAndWithoutAnError(t *testing.T) {
	logs := newFakeLogs()
	s := serve(t, Options{Logs: logs})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for _, err := range s.client.Logs(ctx, "", 1, true) {
		if err != nil {
			t.Fatal(err)
		}
		cancel()
	}
	next(t, logs.ended)
}

func TestFollowingEndsWithTheServer(t *testing.T) {
	logs := newFakeLogs()
	s := serve(t, Options{Logs: logs})
	for _, err := range s.client.Logs(t.Context(), "", 1, true) {
		if err != nil {
			t.Fatal(err)
		}
		go func() { _ = s.stop() }()
	}
	next(t, logs.ended)
	if err := s.stop(); err != nil {
		t.Error(err)
	}
}

func TestLogsOfAServerThatKeepsNone(t *testing.T) {
	s := serve(t, Options{})
	for _, err := range s.client.Logs(t.Context(), "", 1, false) {
		wantCode(t, err, "Unavailable", "keeps no logs")
	}
}
