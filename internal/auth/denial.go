package auth

import (
	"fmt"
	"strings"

	"github.com/shoalserve/shoal/internal/serving"
)

// Denial is the error of a request that is not let in. Its reasons are values of
// a metric's label.
type Denial struct {
	// Reason is "missing", "invalid", "expired", "scope" or "endpoint".
	Reason string
	err    *serving.Error
	scopes []Scope
}

func (d *Denial) Error() string { return d.err.Error() }

// Unwrap returns the error with its code, Unauthorized or Forbidden.
func (d *Denial) Unwrap() error { return d.err }

// Challenge is the value of the header WWW-Authenticate, RFC 6750 section 3.
func (d *Denial) Challenge() string {
	switch d.Reason {
	case "missing":
		return `Bearer realm="shoal"`
	case "scope":
		texts := make([]string, len(d.scopes))
		for i, s := range d.scopes {
			texts[i] = string(s)
		}
		return fmt.Sprintf(`Bearer realm="shoal", error="insufficient_scope", scope=%q`, strings.Join(texts, " "))
	case "endpoint":
		return `Bearer realm="shoal", error="insufficient_scope"`
	}
	return `Bearer realm="shoal", error="invalid_token"`
}

var (
	errMissing = &Denial{Reason: "missing", err: serving.Errorf(serving.Unauthorized, "this server wants a credential: send the header Authorization: Bearer KEY")}
	errInvalid = &Denial{Reason: "invalid", err: serving.Errorf(serving.Unauthorized, "the credential is none of this server's")}
)

// Expired is the denial of an identity that has ended.
func Expired() *Denial {
	return &Denial{Reason: "expired", err: serving.Errorf(serving.Unauthorized, "the credential has expired or was taken away")}
}

// Invalid is the denial of a credential that is not known.
func Invalid(format string, args ...any) *Denial {
	return &Denial{Reason: "invalid", err: serving.Errorf(serving.Unauthorized, format, args...)}
}

// Missing is the denial of a request without a credential.
func Missing(format string, args ...any) *Denial {
	return &Denial{Reason: "missing", err: serving.Errorf(serving.Unauthorized, format, args...)}
}

// Allow returns a *Denial unless the identity has one of the scopes.
func (i *Identity) Allow(scopes ...Scope) error {
	if i.May(scopes...) {
		return nil
	}
	texts := make([]string, len(scopes))
	for n, s := range scopes {
		texts[n] = string(s)
	}
	return &Denial{Reason: "scope", scopes: scopes, err: serving.Errorf(serving.Forbidden, "%q may not do this: it wants the scope %s", i.Name, strings.Join(texts, " or "))}
}

// AllowQuery returns a *Denial unless the identity may ask an endpoint.
func (i *Identity) AllowQuery(endpoint string) error {
	if err := i.Allow(Query); err != nil {
		return err
	}
	if i.Reaches(endpoint) {
		return nil
	}
	return &Denial{Reason: "endpoint", err: serving.Errorf(serving.Forbidden, "%q may not ask endpoint %q", i.Name, endpoint)}
}
