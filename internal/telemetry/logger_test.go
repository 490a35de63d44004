package telemetry

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestLogFormats(t *testing.T) {
	for format, isJSON := range map[string]bool{"json": true, "auto": true, "": true, "text": false} {
		var buf bytes.Buffer
		log, err := NewLogger(&buf, format, slog.LevelInfo)
		if err != nil {
			t.Fatal(err)
		}
		log.Debug("hidden")
		log.Info("shown", "backend", "m")
		line := buf.String()
		if json.Valid([]byte(line)) != isJSON || strings.Count(line, "\n") != 1 {
			t.Errorf("%q: %s", format, line)
		}
		for _, want := range []string{"shown", "backend", "m"} {
			if !strings.Contains(line, want) {
				t.Errorf("%q does not say %q: %s", format, want, line)
			}
		}
		if strings.Contains(line, "\x1b") {
			t.Errorf("%q: colours, but no terminal: %q", format, line)
		}
	}
	if _, err := NewLogger(&bytes.Buffer{}, "xml", slog.LevelInfo); err == nil || !strings.Contains(err.Error(), `"xml" is none of auto, text, json`) {
		t.Errorf("got %v", err)
	}
}

func TestAFileIsNoTerminal(t *testing.T) {
	file, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if IsTerminal(file) || IsTerminal(&bytes.Buffer{}) {
		t.Error("taken for a terminal")
	}
}
