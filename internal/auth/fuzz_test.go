package auth

import (
	"encoding/hex"
	"testing"
)

// FuzzCredential sends credentials that nobody gave out, and one that somebody did.
func FuzzCredential(f *testing.F) {
	const key = "a-key-of-at-least-sixteen"
	digest := digestOf([]byte(key))
	a, err := New(Config{Keys: map[string]Key{"alice": {SHA256: hex.EncodeToString(digest[:]), Grant: Grant{Scopes: []Scope{Query}}}}}, Options{})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(a.Close)
	f.Add("Bearer " + key)
	f.Add("bearer  " + key + " ")
	f.Add("Bearer eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbGljZSJ9.")
	f.Add("Basic YTpi")
	f.Fuzz(func(t *testing.T, authorization string) {
		who, err := a.Request(request(authorization))
		credential, ok := Bearer([]byte(authorization))
		if known := ok && string(credential) == key; (who != nil) != known || (err == nil) != known {
			t.Errorf("%q: let in as %v, %v", authorization, who, err)
		}
	})
}
