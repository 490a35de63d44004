// Package python carries the SDK's source, so that the server can unpack it for an interpreter that has no
// shoal package of its own.
package python

import "embed"

// SDK holds the package directory "shoal": every module of it, and py.typed.
//
//go:embed shoal/*.py shoal/py.typed
var SDK embed.FS
