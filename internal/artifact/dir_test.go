package artifact_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"go.uber.org/goleak"

	"github.com/shoalserve/shoal/internal/artifact"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// helloDigest is the output of `printf hello | sha256sum`.
const helloDigest = "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"

func open(t *testing.T, maxSize int64) (*artifact.Dir, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "a", "b")
	d, err := artifact.OpenDir(path, maxSize)
	if err != nil {
		t.Fatal(err)
	}
	return d, path
}

func TestWhatWasPutIsFoundUnderItsDigest(t *testing.T) {
	d, dir := open(t, 5)
	digest, size, err := d.Put(t.Context(), strings.NewReader("hello"))
	if err != nil || digest != helloDigest || size != 5 {
		t.Fatalf("Put = %q, %d, %v", digest, size, err)
	}
	path, release, err := d.Hold(t.Context(), digest)
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	if content, err := os.ReadFile(path); err != nil || string(content) != "hello" {
		t.Errorf("file holds %q, %v", content, err)
	}
	for path, mode := range map[string]os.FileMode{dir: 0o700, path: 0o600} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != mode {
			t.Errorf("mode of %s is %v, %v; want %v", path, info.Mode().Perm(), err, mode)
		}
	}
}

func TestPutOfTheSameContentAtTheSameTime(t *testing.T) {
	d, dir := open(t, 0)
	content := bytes.Repeat([]byte("shoal"), 100_000)
	var puts sync.WaitGroup
	for range 8 {
		puts.Go(func() {
			if _, _, err := d.Put(t.Context(), bytes.NewReader(content)); err != nil {
				t.Error(err)
			}
		})
	}
	puts.Wait()
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("directory holds %v, %v; want one artifact", entries, err)
	}
}

func TestAFailedPutLeavesNothing(t *testing.T) {
	ended, end := context.WithCancel(t.Context())
	end()
	broken := errors.New("connection reset")
	for name, c := range map[string]struct {
		ctx  context.Context
		r    io.Reader
		want error
	}{
		"too large":     {t.Context(), strings.NewReader("hello!"), artifact.ErrTooLarge},
		"reader fails":  {t.Context(), io.MultiReader(strings.NewReader("he"), iotest.ErrReader(broken)), broken},
		"context ended": {ended, strings.NewReader("hello"), context.Canceled},
	} {
		t.Run(name, func(t *testing.T) {
			d, dir := open(t, 5)
			if _, _, err := d.Put(c.ctx, c.r); !errors.Is(err, c.want) {
				t.Errorf("Put = %v, want %v", err, c.want)
			}
			if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
				t.Errorf("directory holds %v, %v", entries, err)
			}
		})
	}
}

func TestPathRefusesWhatIsNotThere(t *testing.T) {
	d, _ := open(t, 0)
	for _, digest := range []string{
		helloDigest, "", "sha256:", "sha256:../../../etc/passwd", strings.ToUpper(helloDigest),
		strings.TrimPrefix(helloDigest, "sha256:"), helloDigest[:len(helloDigest)-2],
	} {
		if path, _, err := d.Hold(t.Context(), digest); !errors.Is(err, artifact.ErrNotFound) {
			t.Errorf("Hold(%q) = %q, %v", digest, path, err)
		}
	}
}

func TestOpenDirClearsAbandonedUploads(t *testing.T) {
	_, dir := open(t, 0)
	old, fresh := filepath.Join(dir, "upload-1"), filepath.Join(dir, "upload-2")
	for _, path := range []string{old, fresh} {
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chtimes(old, time.Time{}, time.Now().Add(-48*time.Hour)); err != nil {
		t.Fatal(err)
	}
	if _, err := artifact.OpenDir(dir, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(old); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("abandoned upload is still there: %v", err)
	}
	if _, err := os.Stat(fresh); err != nil {
		t.Errorf("an upload that may be running is gone: %v", err)
	}
}

func TestOpenDirWhereAFileIs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := artifact.OpenDir(path, 0); err == nil {
		t.Error("OpenDir succeeded on a file")
	}
}

func TestAnArtifactGoesWhenNobodyHasHeldItForAWhile(t *testing.T) {
	d, _ := open(t, 0)
	put := func(content string) string {
		t.Helper()
		digest, _, err := d.Put(t.Context(), strings.NewReader(content))
		if err != nil {
			t.Fatal(err)
		}
		return digest
	}
	hold := func(digest string) (string, func()) {
		t.Helper()
		path, release, err := d.Hold(t.Context(), digest)
		if err != nil {
			t.Fatal(err)
		}
		return path, release
	}
	digest := put("a model")
	path, first := hold(digest)
	_, second := hold(digest)
	age := func() {
		t.Helper()
		if err := os.Chtimes(path, time.Time{}, time.Now().Add(-24*time.Hour)); err != nil {
			t.Fatal(err)
		}
	}
	there := func() bool { _, err := os.Stat(path); return err == nil }

	first()
	age()
	if put("another"); !there() {
		t.Fatal("an artifact went that somebody holds")
	}
	second()
	if put("another"); !there() {
		t.Fatal("an artifact went that was held just now")
	}
	age()
	put("a model") // anew
	if put("another"); !there() {
		t.Fatal("an artifact went that was put just now")
	}
	age()
	if put("another"); there() {
		t.Error("an artifact stays that nobody needs")
	}
}
