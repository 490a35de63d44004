package admin

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/shoalserve/shoal/internal/artifact"
	"github.com/shoalserve/shoal/internal/runtime/python"
	"github.com/shoalserve/shoal/internal/serving"
)

// slow deploys wait until they are let go or their context ends.
type slowDeployer struct {
	started, ended chan string
	let            chan struct{}
}

func newSlowDeployer() *slowDeployer {
	return &slowDeployer{make(chan string, 10), make(chan string, 10), make(chan struct{})}
}

func (d *slowDeployer) Redeploy(ctx context.Context, _ serving.Backend, name string, spec python.Spec, _ serving.Config) (serving.Backend, error) {
	d.started <- name
	select {
	case <-d.let:
		b := newFake(name)
		b.gone = spec.Closed
		return b, nil
	case <-ctx.Done():
		d.ended <- name
		return nil, context.Cause(ctx)
	}
}

func TestAClientThatHangsUpEndsItsDeploy(t *testing.T) {
	d := newSlowDeployer()
	s := serve(t, Options{Deployer: d})
	ctx, hangUp := context.WithCancel(t.Context())
	var calling sync.WaitGroup
	calling.Go(func() {
		if _, err := s.client.Deploy(ctx, "m", fileSpec, false); !errors.Is(err, context.Canceled) {
			t.Errorf("Deploy = %v", err)
		}
	})
	next(t, d.started)
	hangUp()
	next(t, d.ended)
	calling.Wait()
	_, err := s.client.Backend(t.Context(), "m")
	wantCode(t, err, serving.BackendNotFound)
}

func TestAShutdownEndsDeploys(t *testing.T) {
	d := newSlowDeployer()
	s := serve(t, Options{Deployer: d})
	var calling sync.WaitGroup
	calling.Go(func() {
		_, err := s.client.Deploy(t.Context(), "m", fileSpec, false)
		wantCode(t, err, serving.Draining)
	})
	next(t, d.started)
	if err := s.stop(); err != nil {
		t.Error(err)
	}
	calling.Wait()
}

func TestTwoDeploysOfOneNameEndInOneOfThemWhole(t *testing.T) {
	d := newSlowDeployer()
	s := serve(t, Options{Deployer: d})
	results := make(chan error, 2)
	for range 2 {
		go func() {
			_, err := s.client.Deploy(t.Context(), "m", fileSpec, false)
			results <- err
		}()
	}
	next(t, d.started)
	close(d.let)
	first, second := next(t, results), next(t, results)
	if first != nil {
		first, second = second, first
	}
	if first != nil {
		t.Errorf("both failed: %v, %v", first, second)
	}
	wantCode(t, second, serving.AlreadyExists)
	if len(d.started) != 0 {
		t.Error("the second deploy was started although the name was taken")
	}
}

func TestABackendHoldsItsArtifactAsLongAsItLives(t *testing.T) {
	dir := t.TempDir()
	store, err := artifact.OpenDir(dir, 0)
	if err != nil {
		t.Fatal(err)
	}
	d := newSlowDeployer()
	close(d.let)
	s := serve(t, Options{Deployer: d, Artifacts: store})
	put := func(content string) Artifact {
		t.Helper()
		a, err := s.client.Upload(t.Context(), strings.NewReader(content))
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	model := put("a model")
	files, err := filepath.Glob(filepath.Join(dir, "sha256-*"))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	goes := func() bool { // once it is old and another artifact comes
		t.Helper()
		if err := os.Chtimes(files[0], time.Time{}, time.Now().Add(-24*time.Hour)); err != nil {
			t.Fatal(err)
		}
		put("another")
		_, err := os.Stat(files[0])
		return errors.Is(err, fs.ErrNotExist)
	}
	spec := BackendSpec{Spec: python.Spec{Source: python.Source{Kind: "pickle", Digest: model.Digest}}}
	if _, err := s.client.Deploy(t.Context(), "m", spec, false); err != nil {
		t.Fatal(err)
	}
	if goes() {
		t.Fatal("the artifact of a running backend is gone")
	}
	if err := s.client.DeleteBackend(t.Context(), "m"); err != nil {
		t.Fatal(err)
	}
	if !goes() {
		t.Error("the artifact of a backend that is gone stays")
	}
}
