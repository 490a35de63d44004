package server

import (
	"log/slog"
	"os"
	"os/exec"
	"strings"

	"github.com/shoalserve/shoal/internal/auth"
	"github.com/shoalserve/shoal/internal/config"
	"github.com/shoalserve/shoal/internal/front/admin"
	"github.com/shoalserve/shoal/internal/runtime/python"
	"github.com/shoalserve/shoal/internal/secure"
)

// Check returns, as config.Errors, what would keep a server with these options from
// starting although its config file is well-formed: credentials, certificates, users,
// programs and files of this machine. It runs no model, listens nowhere, asks nobody
// and leaves nothing behind.
func Check(file *config.File, opts Options) error {
	c := checker{file: file}
	if opts.AdminAddress != "" {
		guarded := opts.Token != "" || opts.Auth != nil
		c.note(admin.CheckAddress(opts.AdminAddress, guarded, opts.TLS != (secure.Files{})), "admin", "address")
	}
	if opts.Auth != nil {
		c.note(auth.Check(*opts.Auth), "auth")
	}
	if opts.TLS != (secure.Files{}) {
		_, err := secure.Open(opts.TLS, slog.New(slog.DiscardHandler))
		c.note(err, "tls")
	}
	if opts.AuditFile != "" {
		c.note(checkAuditFile(opts.AuditFile), "audit", "file")
	}
	if opts.WorkerUser != "" {
		_, err := python.LookUser(opts.WorkerUser)
		c.note(err, "python", "user")
	}
	c.checkPrograms()
	if len(c.wrong) == 0 {
		return nil
	}
	return c.wrong.Sorted()
}

// checker collects what is wrong with a file.
type checker struct {
	file  *config.File
	wrong config.Errors
}

// note takes down an error, or each of several, at its place.
func (c *checker) note(err error, path ...string) {
	if several, ok := err.(interface{ Unwrap() []error }); ok { //nolint:errorlint // only what errors.Join joined last is taken apart
		for _, one := range several.Unwrap() {
			c.note(one, path...)
		}
	} else if err != nil {
		c.wrong = append(c.wrong, c.file.Wrong(strings.ReplaceAll(err.Error(), "\n", "; "), path...))
	}
}

// checkPrograms looks for the interpreters and the files of the models.
func (c *checker) checkPrograms() {
	find := func(interpreter string, path ...string) {
		if interpreter != "" {
			_, err := exec.LookPath(interpreter)
			c.note(err, path...)
		}
	}
	find(c.file.Python.Interpreter, "python", "interpreter")
	for name, b := range c.file.Backends {
		find(b.Spec.Interpreter, "backends", name, "interpreter")
		_, err := os.Stat(b.Spec.Source.Path)
		c.note(err, "backends", name, "python")
	}
}
