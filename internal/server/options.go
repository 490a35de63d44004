package server

import (
	"time"

	"github.com/shoalserve/shoal/internal/config"
	"github.com/shoalserve/shoal/internal/front/rest"
)

// OptionsOf are the options that a config file says.
func OptionsOf(file *config.File) Options {
	h := file.HTTP
	return Options{
		HTTPAddress: h.Address, AdminAddress: file.Admin.Address, Interpreter: file.Python.Interpreter,
		PassEnv: file.Python.PassEnv, WorkerUser: file.Python.User,
		TLS: file.TLS, Auth: file.Auth, AuditFile: file.Audit.File, NoPickle: file.Python.AllowPickle != nil && !*file.Python.AllowPickle,
		ShutdownDelay: time.Duration(h.ShutdownDelay),
		Rest: rest.Options{
			MaxBodyBytes: int64(h.MaxBody), MaxHeaderBytes: int(h.MaxHeader),
			ReadHeaderTimeout: time.Duration(h.ReadHeaderTimeout), ReadTimeout: time.Duration(h.ReadTimeout),
			IdleTimeout: time.Duration(h.IdleTimeout), ShutdownTimeout: time.Duration(h.ShutdownTimeout),
			NoServerTiming: h.ServerTiming != nil && !*h.ServerTiming, OnlyNetHTTP: h.Front == "net/http",
			MaxInflightBytes: int64(h.MaxInflightBytes), MaxConnections: h.MaxConnections,
		},
	}
}
