package server

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/shoalserve/shoal/internal/config"
)

func TestWhatThisMachineLacksForAFileIsToldAsAStartWould(t *testing.T) {
	for name, test := range map[string]struct {
		text, want string
		later      bool // a start finds it only with the models
	}{
		"a digest of no key":       {text: "auth: {keys: {a: {scopes: [query], sha256: \"12\"}}}\n", want: `1:7: auth: key "a": sha256 must be 64 hex digits`},
		"an auth of nothing":       {text: "auth: {}\n", want: `1:7: auth: names no credential`},
		"a file of no key":         {text: "auth: {keys: {a: {scopes: [query], file: nokey}}}\n", want: `nokey: no such file`},
		"a certificate":            {text: "tls: {cert: nox.pem, key: noy.pem}\n", want: `nox.pem: no such file`},
		"an open admin":            {text: "admin: {address: \"http://127.0.0.1:1\"}\n", want: `1:18: the admin API is served by TCP only with a token`},
		"an admin without tls":     {text: "admin: {address: \"https://127.0.0.1:1\"}\n", want: `https:// goes with a certificate`},
		"a user":                   {text: "python: {user: no-such-user}\n", want: `1:16: python.user: there is no user "no-such-user"`},
		"a folder of an audit log": {text: "audit: {file: nodir/a.log}\n", want: `1:15: opening the audit log: open `},
		"a model's file":           {text: "backends: {a: {python: nofile.py:x}}\n", want: `nofile.py: no such file`, later: true},
		"an interpreter":           {text: "python: {interpreter: no-such-python}\n", want: `1:23: exec: "no-such-python": executable file not found`, later: true},
		"one of a backend":         {text: "backends: {a: {python: models.py:adder, interpreter: no-such-python}}\n", want: `1:54: exec: "no-such-python": executable file not found`, later: true},
	} {
		t.Run(name, func(t *testing.T) {
			opts := OptionsOf(parse(t, test.text))
			err := Check(parse(t, test.text), opts)
			wrong, ok := errors.AsType[config.Errors](err)
			if !ok || len(wrong) != 1 || !strings.Contains(wrong.Error(), test.want) {
				t.Errorf("it said %v, want %q", err, test.want)
			}
			if test.later {
				return
			}
			opts.HTTPAddress = "127.0.0.1:0"
			if opts.AdminAddress == "" {
				opts.AdminAddress = "unix:" + filepath.Join(t.TempDir(), "a.sock")
			}
			if _, err := New(opts); err == nil {
				t.Error("a server starts with it")
			}
		})
	}
}

func TestAllThatAMachineLacksIsToldInOrderAndNothingIsLeftBehind(t *testing.T) {
	audit := filepath.Join(t.TempDir(), "audit.log")
	file := parse(t, "audit: {file: "+audit+"}\nauth:\n  keys:\n    a: {scopes: [query]}\n    b: {scopes: [query]}\npython: {user: no-such-user}\n")
	wrong, ok := errors.AsType[config.Errors](Check(file, OptionsOf(file)))
	if !ok || len(wrong) != 3 || wrong[2].Line != 6 || !strings.Contains(wrong[0].Message, `key "a"`) || !strings.Contains(wrong[1].Message, `key "b"`) {
		t.Errorf("it said %v", wrong)
	}
	if _, err := os.Stat(audit); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the audit log: %v", err)
	}
	if file = parse(t, "backends: {a: {python: models.py:adder}}\naudit: {file: "+audit+"}\n"); Check(file, OptionsOf(file)) != nil {
		t.Errorf("a right one: %v", Check(file, OptionsOf(file)))
	}
}
