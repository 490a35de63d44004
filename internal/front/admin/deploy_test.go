package admin

import (
	"context"
	"errors"
	"sync"
	"testing"

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

func (d *slowDeployer) Backend(ctx context.Context, name string, _ python.Spec, _ serving.Config) (serving.Backend, error) {
	d.started <- name
	select {
	case <-d.let:
		return newFake(name), nil
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
