package python

import (
	"fmt"
	"slices"
	"sync"
)

const (
	// arenaSize is the most bytes that one worker shares with the server. It
	// costs addresses, not memory: only pages that were written exist.
	arenaSize = 1 << 30
	// pageSize is what regions are rounded up to, so that they can be given
	// back to the system one by one.
	pageSize = 4096
	// trimPeriod is the number of regions taken after which pages that none of
	// them touched are given back to the system.
	trimPeriod = 256
)

// arena is the memory that the server shares with one worker, divided into
// regions. Only the server divides; a region belongs to one batch until the
// batch was answered and the worker keeps none of its arrays. Nil is an arena
// without room.
type arena struct {
	memory sharedMemory

	mu      sync.Mutex
	free    []span            // in order, none touching the next
	regions map[uint64]region // by the id of the batch that has it
	taken   int               // regions, since pages were last given back
	peak    int               // where the last of those ended
	touched int               // beyond here no pages exist
}

// span is a part of an arena.
type span struct{ offset, length int }

func (s span) end() int { return s.offset + s.length }

// region is the part of an arena that a batch has: its frame, then room for its answer.
type region struct {
	span
	frame int // bytes of the frame; 0: it travels in the socket
	room  span
	kept  bool // the worker holds arrays of it after the answer
}

// newArena makes an arena, or returns nil where the system has no such memory.
func newArena() (*arena, error) {
	memory, err := newSharedMemory(arenaSize)
	if err != nil || memory.bytes == nil {
		return nil, err
	}
	return &arena{memory: memory, free: []span{{0, arenaSize}}, regions: make(map[uint64]region)}, nil
}

// take gives a batch a region for a frame and room for its answer; false when
// there is none. Lower addresses are taken first: they are likely to be in the
// processor's cache.
func (a *arena) take(id uint64, frame, room int) (region, bool) {
	if a == nil || frame > arenaSize {
		return region{}, false
	}
	at := align(frame, pageSize)
	length := at + align(min(room, arenaSize), pageSize)
	a.mu.Lock()
	defer a.mu.Unlock()
	i := slices.IndexFunc(a.free, func(s span) bool { return s.length >= length })
	if i < 0 {
		return region{}, false
	}
	s := &a.free[i]
	r := region{span: span{s.offset, length}, frame: frame, room: span{s.offset + at, length - at}}
	if s.length -= length; s.length == 0 {
		a.free = slices.Delete(a.free, i, i+1)
	} else {
		s.offset += length
	}
	a.regions[id] = r
	a.taken++
	a.peak = max(a.peak, r.end())
	a.touched = max(a.touched, r.end())
	return r, true
}

// bytes is the memory of a span.
func (a *arena) bytes(s span) []byte { return a.memory.bytes[s.offset:s.end():s.end()] }

// answer is what a worker wrote into the room of its batch's region: at least one
// byte, which is the region's until answered.
func (a *arena) answer(id, length uint64) ([]byte, error) {
	if a == nil {
		return nil, fmt.Errorf("answer in shared memory, of which there is none")
	}
	a.mu.Lock()
	r, ok := a.regions[id]
	a.mu.Unlock()
	if !ok || length == 0 || length > uint64(r.room.length) {
		return nil, fmt.Errorf("answer of %d bytes in the shared memory of batch %d, which has room for %d", length, id, r.room.length)
	}
	return a.bytes(span{r.room.offset, int(length)}), nil
}

// keep makes the region outlast the answer, until the worker lets go of it.
func (a *arena) keep(id uint64) error {
	return a.change(id, func(r region) error {
		r.kept = true
		a.regions[id] = r
		return nil
	})
}

// answered ends the batch's use of its region, if it has one.
func (a *arena) answered(id uint64) {
	if a == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if r, ok := a.regions[id]; ok && !r.kept {
		a.giveBack(id, r)
	}
}

// letGo ends the worker's use of a region that it had kept.
func (a *arena) letGo(id uint64) error {
	return a.change(id, func(r region) error {
		if !r.kept {
			return fmt.Errorf("the worker lets go of the region of batch %d, which it did not keep", id)
		}
		a.giveBack(id, r)
		return nil
	})
}

func (a *arena) change(id uint64, do func(region) error) error {
	if a == nil {
		return fmt.Errorf("batch %d has no region: there is no shared memory", id)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	r, ok := a.regions[id]
	if !ok {
		return fmt.Errorf("batch %d has no region", id)
	}
	return do(r)
}

// giveBack makes a region free. mu is held.
func (a *arena) giveBack(id uint64, r region) {
	delete(a.regions, id)
	i, _ := slices.BinarySearchFunc(a.free, r.offset, func(s span, offset int) int { return s.offset - offset })
	a.free = slices.Insert(a.free, i, r.span)
	if i+1 < len(a.free) && a.free[i].end() == a.free[i+1].offset {
		a.free[i].length += a.free[i+1].length
		a.free = slices.Delete(a.free, i+1, i+2)
	}
	if i > 0 && a.free[i-1].end() == a.free[i].offset {
		a.free[i-1].length += a.free[i].length
		a.free = slices.Delete(a.free, i, i+1)
	}
	a.trim()
}

// trim gives pages back to the system that were not used of late. mu is held.
func (a *arena) trim() {
	if a.taken < trimPeriod {
		return
	}
	for _, r := range a.regions {
		a.peak = max(a.peak, r.end())
	}
	if a.peak < a.touched && a.memory.discard(a.peak, a.touched-a.peak) == nil {
		a.touched = a.peak
	}
	a.taken, a.peak = 0, 0
}

// close unmaps the memory, which nobody may use any more.
func (a *arena) close() error {
	if a == nil {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.free = nil
	return a.memory.close()
}

// align rounds n up to a multiple of unit, a power of two.
func align(n, unit int) int { return (n + unit - 1) &^ (unit - 1) }
