package telemetry

import (
	"context"
	"fmt"
	"io"
	"iter"
	"slices"
	"sync"
	"time"
)

// Line is a line that a worker wrote.
type Line struct {
	Time    time.Time `json:"time"`
	Backend string    `json:"backend"`
	Replica int       `json:"replica"`
	Stream  string    `json:"stream"` // "stdout" or "stderr"
	Line    string    `json:"line"`
}

// Lines keeps the last lines that models wrote, and passes them on.
type Lines struct {
	mirror io.Writer

	mu        sync.Mutex
	kept      []Line // a ring once it is full
	next      int    // where the next line goes
	followers map[*follower]struct{}
}

// follower gets the lines of one backend, or of all.
type follower struct {
	backend string
	lines   chan Line
	lost    int // lines that did not fit into the channel; guarded by Lines.mu
}

const (
	keptLines    = 10_000
	followerRoom = 1_000
)

// NewLines returns Lines that also write each line to mirror, unless it is nil,
// behind the name of its backend.
func NewLines(mirror io.Writer) *Lines {
	return &Lines{mirror: mirror, followers: make(map[*follower]struct{})}
}

// Write adds a line. It never waits for a follower: one that is slow loses lines
// and is told how many.
func (l *Lines) Write(backend string, replica int, stream, text string) {
	line := Line{Time: time.Now().UTC(), Backend: backend, Replica: replica, Stream: stream, Line: text}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.mirror != nil {
		fmt.Fprintf(l.mirror, "%s | %s\n", backend, text) // a log that cannot be written has nowhere to complain
	}
	if len(l.kept) < keptLines {
		l.kept = append(l.kept, line)
	} else {
		l.kept[l.next] = line
	}
	l.next = (l.next + 1) % keptLines
	for f := range l.followers {
		f.offer(line)
	}
}

func (f *follower) offer(line Line) {
	if f.backend != "" && f.backend != line.Backend {
		return
	}
	if f.lost > 0 {
		note := line
		note.Stream, note.Line = "shoal", fmt.Sprintf("… %d lines were lost: the reader is too slow …", f.lost)
		select {
		case f.lines <- note:
			f.lost = 0
		default:
		}
	}
	select {
	case f.lines <- line:
	default:
		f.lost++
	}
}

// Tail implements the admin API's Logs.
func (l *Lines) Tail(backend string, n int) []Line {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.tail(backend, n)
}

// tail looks from the newest line back, so that it holds up the writers only as
// long as it must. mu is held.
func (l *Lines) tail(backend string, n int) []Line {
	var lines []Line
	for i := 1; i <= len(l.kept) && len(lines) < n; i++ {
		if line := l.kept[(l.next-i+keptLines)%keptLines]; backend == "" || line.Backend == backend {
			lines = append(lines, line)
		}
	}
	slices.Reverse(lines)
	return lines
}

// Follow implements the admin API's Logs.
func (l *Lines) Follow(ctx context.Context, backend string, n int) iter.Seq[Line] {
	return func(yield func(Line) bool) {
		f := &follower{backend: backend, lines: make(chan Line, followerRoom)}
		l.mu.Lock()
		past := l.tail(backend, n)
		l.followers[f] = struct{}{}
		l.mu.Unlock()
		defer func() {
			l.mu.Lock()
			delete(l.followers, f)
			l.mu.Unlock()
		}()
		for _, line := range past {
			if !yield(line) {
				return
			}
		}
		for {
			select {
			case line := <-f.lines:
				if !yield(line) {
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}
}
