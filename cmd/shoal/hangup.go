package main

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"github.com/shoalserve/shoal/internal/server"
)

// hangups are the SIGHUPs that a server gets. One that somebody sends asks for a
// reload, as with most servers. One that comes because the terminal is gone
// means what it meant when terminals had telephones: stop, unless nohup said
// otherwise.
type hangups struct {
	signals  chan os.Signal
	ignored  bool // nohup
	terminal bool // the process was started in a terminal
}

// catchHangups keeps SIGHUP from ending the process, from now on.
func catchHangups() *hangups {
	h := &hangups{signals: make(chan os.Signal, 1), ignored: signal.Ignored(syscall.SIGHUP), terminal: inTerminal()}
	signal.Notify(h.signals, syscall.SIGHUP)
	return h
}

// inTerminal reports whether the process has a terminal. The kernel takes a
// terminal that is closed away before it sends the signal.
func inTerminal() bool {
	terminal, err := os.OpenFile("/dev/tty", os.O_RDWR|syscall.O_NOCTTY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return false
	}
	terminal.Close()
	return true
}

// watch does what the signals ask for, one after the other, until stop is called.
func (h *hangups) watch(ctx context.Context, shutDown func(), s *server.Server, log *slog.Logger) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var watching sync.WaitGroup
	watching.Go(func() {
		for {
			select {
			case <-h.signals:
				h.act(ctx, shutDown, s, log)
			case <-ctx.Done():
				return
			}
		}
	})
	return func() {
		cancel()
		watching.Wait()
	}
}

func (h *hangups) act(ctx context.Context, shutDown func(), s *server.Server, log *slog.Logger) {
	switch gone := h.terminal && !inTerminal(); {
	case gone && h.ignored:
		h.terminal = false // the next signal is somebody's
	case gone:
		log.Info("the terminal was closed: stopping; start the server with nohup for it to go on")
		shutDown()
	default:
		s.ReloadOnSignal(ctx)
	}
}
