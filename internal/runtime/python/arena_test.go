package python

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func mustArena(t testing.TB) *arena {
	t.Helper()
	a, err := newArena()
	if err != nil {
		t.Fatal(err)
	}
	if a == nil {
		t.Skip("no shared memory on this system")
	}
	t.Cleanup(func() {
		if err := a.close(); err != nil {
			t.Error(err)
		}
	})
	return a
}

// TestRegionsNeverOverlap takes and gives back regions in any order and looks at
// every one that is out.
func TestRegionsNeverOverlap(t *testing.T) {
	a := mustArena(t)
	rapid.Check(t, func(t *rapid.T) {
		out := map[uint64]region{}
		kept := map[uint64]bool{}
		next := uint64(0)
		some := func() uint64 {
			if len(out) == 0 {
				t.Skip("nothing is out")
			}
			ids := make([]uint64, 0, len(out))
			for id := range out {
				ids = append(ids, id)
			}
			slices.Sort(ids)
			return rapid.SampledFrom(ids).Draw(t, "id")
		}
		end := func(id uint64) {
			if kept[id] {
				if err := a.letGo(id); err != nil {
					t.Fatal(err)
				}
			}
			a.answered(id)
			delete(out, id)
			delete(kept, id)
		}
		t.Repeat(map[string]func(*rapid.T){
			"take": func(t *rapid.T) {
				next++
				size, room := rapid.IntRange(0, 1<<28).Draw(t, "size"), rapid.IntRange(1, 1<<28).Draw(t, "room")
				r, ok := a.take(next, size, room)
				if !ok {
					return
				}
				if r.room.length < room || r.room.offset < r.offset+size || r.room.end() > r.end() || r.end() > arenaSize {
					t.Fatalf("take(%d, %d) gave %+v", size, room, r)
				}
				for id, other := range out {
					if r.offset < other.end() && other.offset < r.end() {
						t.Fatalf("%+v overlaps %+v of batch %d", r, other, id)
					}
				}
				out[next] = r
			},
			"keep": func(t *rapid.T) {
				id := some()
				if err := a.keep(id); err != nil {
					t.Fatal(err)
				}
				kept[id] = true
				a.answered(id) // which changes nothing
			},
			"end": func(t *rapid.T) { end(some()) },
		})
		for id := range out {
			end(id)
		}
		if len(a.regions) > 0 || !slices.Equal(a.free, []span{{0, arenaSize}}) {
			t.Fatalf("after all came back: %d regions, free %v", len(a.regions), a.free)
		}
	})
}

func TestMoreThanTheArenaIsRefused(t *testing.T) {
	a := mustArena(t)
	if _, ok := a.take(1, arenaSize+1, 0); ok {
		t.Error("took more than there is")
	}
	if _, ok := a.take(1, arenaSize, 0); !ok {
		t.Error("could not take all there is")
	}
	if _, ok := a.take(2, 1, 0); ok {
		t.Error("took a byte that is another's")
	}
	if _, ok := (*arena)(nil).take(1, 1, 0); ok {
		t.Error("took memory where there is none")
	}
}

func TestPagesThatNobodyUsesGoBackToTheSystem(t *testing.T) {
	a := mustArena(t)
	const size = 8 << 20
	r, _ := a.take(1, size, 0)
	clear(a.bytes(r.span))
	for id := range uint64(2 * trimPeriod) {
		small, _ := a.take(id+2, 1, 0)
		a.bytes(small.span)[0] = 1
		if id == 0 {
			a.answered(1)
		}
		a.answered(id + 2)
	}
	if a.touched >= size {
		t.Errorf("%d bytes are still there", a.touched)
	}
}

func TestAWorkerThatLetsGoOfWhatItDoesNotHaveBreaksTheProtocol(t *testing.T) {
	a := mustArena(t)
	if a.keep(1) == nil || a.letGo(1) == nil {
		t.Error("a region that does not exist was kept or let go")
	}
	a.take(1, 1, 1)
	if a.letGo(1) == nil {
		t.Error("a region that was not kept was let go")
	}
	for _, length := range []uint64{0, pageSize + 1, 1 << 63} {
		if _, err := a.answer(1, length); err == nil {
			t.Errorf("an answer of %d bytes was found in a room of %d", length, pageSize)
		}
	}
	if _, err := a.answer(2, 1); err == nil {
		t.Error("an answer was found where there is no region")
	}
}
