//go:build !linux

package rest

import (
	"errors"
	"net"
)

func (f *Front) loops(net.Listener) (plainServer, net.Listener, error) {
	return nil, nil, errors.ErrUnsupported
}
