package auth

import (
	"sync"
	"time"
)

// tokens remembers JWTs that were verified, by digest, so that a client's second
// request costs no signature.
type tokens struct {
	mu    sync.RWMutex
	known map[digest]cached
}

type cached struct {
	who   *Identity
	until time.Time
}

const (
	// maxTokens bounds how many are remembered.
	maxTokens = 4096
	// maxRemembered bounds for how long: a key that the issuer withdrew must
	// not live on here.
	maxRemembered = 5 * time.Minute
)

func (t *tokens) get(d digest, now time.Time) *Identity {
	t.mu.RLock()
	c, ok := t.known[d]
	t.mu.RUnlock()
	if !ok || !now.Before(c.until) || c.who.Ended(now) {
		return nil
	}
	return c.who
}

func (t *tokens) put(d digest, who *Identity, now time.Time) {
	until := now.Add(maxRemembered)
	if who.expires.Before(until) {
		until = who.expires
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.known == nil {
		t.known = make(map[digest]cached)
	}
	if len(t.known) >= maxTokens {
		t.makeRoom(now)
	}
	t.known[d] = cached{who, until}
}

// makeRoom forgets what is over, or else half of all: whichever comes first in a
// map's order, which nobody can foresee. mu is held.
func (t *tokens) makeRoom(now time.Time) {
	for d, c := range t.known {
		if !now.Before(c.until) {
			delete(t.known, d)
		}
	}
	for d := range t.known {
		if len(t.known) <= maxTokens/2 {
			return
		}
		delete(t.known, d)
	}
}
