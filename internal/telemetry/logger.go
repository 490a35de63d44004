package telemetry

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/lmittmann/tint"
	"golang.org/x/term"
)

// NewLogger returns a logger that writes lines for people ("text"), objects for
// programs ("json"), or ("auto") lines on a terminal and objects elsewhere.
// Colour is for terminals only, and not where NO_COLOR is set. The level may
// change while the logger is used, as that of a [slog.LevelVar] does.
func NewLogger(w io.Writer, format string, level slog.Leveler) (*slog.Logger, error) {
	terminal := IsTerminal(w)
	if format == "auto" || format == "" {
		format = "json"
		if terminal {
			format = "text"
		}
	}
	switch format {
	case "json":
		return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level})), nil
	case "text":
		return slog.New(tint.NewTextHandler(w, &tint.Options{
			Level: level, TimeFormat: time.TimeOnly, NoColor: !terminal || os.Getenv("NO_COLOR") != "",
		})), nil
	}
	return nil, fmt.Errorf("log format %q is none of auto, text, json", format)
}

// IsTerminal reports whether a writer is a terminal.
func IsTerminal(w io.Writer) bool {
	file, ok := w.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}
