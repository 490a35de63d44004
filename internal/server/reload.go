package server

import (
	"context"
	"errors"
	"fmt"

	"github.com/shoalserve/shoal/internal/config"
	"github.com/shoalserve/shoal/internal/front/admin"
	"github.com/shoalserve/shoal/internal/serving"
)

// Reloading sets what [Server.Reload] does: read again what the server was
// started with, and put it in force or return what is wrong with it. It is called
// once at most, before Run.
func (s *Server) Reloading(reload admin.Reload) { s.reload = reload }

// Reload brings the server up to date with the file that it was started with,
// and logs what came of it. With afresh, what did not change is started anew as
// well. One reload runs at a time. When it fails, what was served before is
// served on.
func (s *Server) Reload(ctx context.Context, afresh bool) (admin.Reloaded, error) {
	log := s.opts.Logger
	done, err := s.reloadInTurn(ctx, afresh)
	if wrong, ok := errors.AsType[config.Errors](err); ok {
		for _, e := range wrong {
			log.Error("the config is wrong", "error", e)
		}
		err = serving.Errorf(serving.InvalidArgument, "%v", wrong)
	}
	if err != nil {
		log.Error("nothing was reloaded; what was served is served on", "error", err)
		return done, err
	}
	for _, warning := range done.Warnings {
		log.Warn(warning)
	}
	log.Info("reloaded", "deployed", done.Deployed, "updated", done.Updated, "removed", done.Removed,
		"endpoints", done.Endpoints, "removed_endpoints", done.RemovedEndpoints)
	return done, nil
}

// ReloadOnSignal is Reload for whoever may send signals to the process. Like those by
// the admin API, it is in the audit log; the log says how it went.
func (s *Server) ReloadOnSignal(ctx context.Context) {
	_, err := s.Reload(ctx, false)
	line := []any{"change", "reload", "who", "", "by", "SIGHUP", "result", "done"}
	if err != nil {
		p := serving.Describe(err)
		line = append(line[:len(line)-1], "failed", "code", string(p.Code), "error", p.Message)
	}
	s.auditLog().Info("audit", line...)
}

func (s *Server) reloadInTurn(ctx context.Context, afresh bool) (done admin.Reloaded, err error) {
	if s.reload == nil {
		return done, serving.Errorf(serving.InvalidArgument, "this server was started without a file: there is nothing to reload")
	}
	select {
	case s.reloading <- struct{}{}:
		defer func() { <-s.reloading }()
		return s.reload(ctx, afresh)
	case <-ctx.Done():
		return done, fmt.Errorf("waiting for another reload: %w", context.Cause(ctx))
	}
}
