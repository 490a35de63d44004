package server

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestTheAuditLogIsOpenedAgainWhereItWasMovedAway(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	var log bytes.Buffer
	a := newAuditFile(path, slog.New(slog.NewTextHandler(&log, nil)))
	audit := slog.New(slog.NewJSONHandler(a, nil))
	open := func() {
		t.Helper()
		if err := a.reopen(); err != nil {
			t.Fatal(err)
		}
	}
	open()
	audit.Info("first")
	moved := path + ".1"
	if err := os.Rename(path, moved); err != nil {
		t.Fatal(err)
	}
	audit.Info("second")
	open()
	audit.Info("third")
	for file, want := range map[string][]string{moved: {"first", "second"}, path: {"third"}} {
		got, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if lines := strings.Split(strings.TrimSpace(string(got)), "\n"); len(lines) != len(want) || !strings.Contains(lines[0], want[0]) {
			t.Errorf("%s has %q, want lines with %q", filepath.Base(file), got, want)
		}
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	audit.Info("fourth")
	if !strings.Contains(log.String(), "the audit log could not be written") {
		t.Errorf("the server's log has %q", log.String())
	}
}
