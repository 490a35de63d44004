package server

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestWhatAKilledServerLeftIsRemovedAndWhatLivesIsKept(t *testing.T) {
	temp := t.TempDir()
	t.Setenv("TMPDIR", temp)
	living, err := openState()
	if err != nil {
		t.Fatal(err)
	}
	dead := filepath.Join(temp, statePrefix+"dead")
	fresh := filepath.Join(temp, statePrefix+"fresh")
	other := filepath.Join(temp, "shoal-other")
	link := filepath.Join(temp, statePrefix+"link")
	for _, dir := range []string{filepath.Join(dead, "artifacts"), fresh, other} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.WriteFile(filepath.Join(dead, "artifacts", "a"), []byte("x"), 0o600), os.Symlink(other, link)); err != nil {
		t.Fatal(err)
	}
	old := time.Now().Add(-time.Hour)
	for _, dir := range []string{dead, living.path, other} {
		if err := os.Chtimes(dir, old, old); err != nil {
			t.Fatal(err)
		}
	}
	next, err := openState()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(dead); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the dead server's directory: %v", err)
	}
	for _, kept := range []string{living.path, fresh, other, link, next.path} {
		if _, err := os.Lstat(kept); err != nil {
			t.Errorf("%s is gone: %v", kept, err)
		}
	}
	if err := errors.Join(living.close(), next.close()); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(living.path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a closed server's directory: %v", err)
	}
}
