package rest

import (
	"slices"

	"github.com/shoalserve/shoal/internal/auth"
	"github.com/shoalserve/shoal/internal/serving"
)

// admit lets the loop's head in if its credential is known. It reports false for
// what net/http is to look at: whoever is to be denied, which is to be told before
// the body comes, and a token whose signature must be verified first.
func (l *loop) admit(e *serving.Endpoint) bool {
	h := &l.head
	credential, ok := auth.Bearer(h.authorization)
	if e == nil || h.authorizations != 1 || !ok {
		return false
	}
	who := l.front.opts.Auth.Known(credential)
	if who == nil || !who.May(auth.Query) || !who.Reaches(e.Name) {
		return false
	}
	h.identify(who.Name)
	return true
}

// identify puts the caller's name in the place of the credential.
func (h *head) identify(name string) {
	h.fields = slices.DeleteFunc(h.fields, func(f field) bool {
		return isName(f.name, "authorization") || isName(f.name, "shoal-caller")
	})
	h.caller = []byte(name)
	h.fields = append(h.fields, field{[]byte(callerHeader), h.caller})
}
