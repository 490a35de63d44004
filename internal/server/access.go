package server

import (
	"crypto/tls"
	"log/slog"
	"net"

	"github.com/shoalserve/shoal/internal/auth"
	"github.com/shoalserve/shoal/internal/secure"
	"github.com/shoalserve/shoal/internal/serving"
)

// openAuth reads the credentials that the server takes and its certificate, and
// opens the audit log.
func (s *Server) openAuth() (err error) {
	if s.opts.Auth != nil {
		if s.auth, err = auth.New(*s.opts.Auth, auth.Options{Logger: s.opts.Logger}); err != nil {
			return err
		}
	}
	if s.opts.TLS != (secure.Files{}) {
		if s.secure, err = secure.Open(s.opts.TLS, s.opts.Logger); err != nil {
			return err
		}
	}
	if s.opts.AuditFile != "" {
		s.audit = newAuditFile(s.opts.AuditFile, s.opts.Logger)
		return s.audit.reopen()
	}
	return nil
}

// adminTLS is for an admin address with https://.
func (s *Server) adminTLS() *tls.Config {
	if s.secure == nil {
		return nil
	}
	return s.secure.Config("http/1.1") // a link is an upgrade, which HTTP/2 has not
}

// auditLog is where changes are written down.
func (s *Server) auditLog() *slog.Logger {
	if s.audit == nil {
		return s.opts.Logger
	}
	return slog.New(slog.NewJSONHandler(s.audit, nil))
}

// ReopenAudit opens the audit log again, since its file may have been moved away.
func (s *Server) ReopenAudit() error {
	if s.audit == nil {
		return nil
	}
	return s.audit.reopen()
}

// PrepareAuth reads the credentials that are to take the place of those in force;
// nil where there are none. Once they are committed, what is gone ends, also on
// connections that are open.
func (s *Server) PrepareAuth(config *auth.Config) (*auth.Prepared, error) {
	switch {
	case (config == nil) != (s.auth == nil):
		return nil, serving.Errorf(serving.InvalidArgument, "auth: to switch it on or off takes a restart of the server")
	case config == nil:
		return nil, nil
	}
	next, err := s.auth.Prepare(*config)
	if err != nil {
		return nil, serving.Errorf(serving.InvalidArgument, "%v", err)
	}
	return next, nil
}

// SetToken puts a token in the place of Options.Token; it is called while reloading.
// What was opened with another one ends.
func (s *Server) SetToken(token string) {
	if token == s.opts.Token {
		return
	}
	s.opts.Token = token
	s.control.SetToken(token)
	s.opts.Logger.Info("the admin token has changed")
}

// warnOpen says that strangers may ask, where they can reach the server.
func (s *Server) warnOpen() {
	address, ok := s.http.Addr().(*net.TCPAddr)
	if s.auth == nil && ok && !address.IP.IsLoopback() {
		s.opts.Logger.Warn("everybody who reaches this server may ask its endpoints: there is no auth in its config", "http", address.String())
	}
}
