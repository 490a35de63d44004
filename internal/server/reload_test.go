package server

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/shoalserve/shoal/internal/config"
	"github.com/shoalserve/shoal/internal/front/admin"
	"github.com/shoalserve/shoal/internal/serving"
)

// folder is a config file and the models that it names, which a test changes.
type folder struct {
	t    *testing.T
	path string
}

func newFolder(t *testing.T) folder {
	t.Helper()
	return folder{t, t.TempDir()}
}

func (f folder) write(name, text string) {
	f.t.Helper()
	if err := os.WriteFile(filepath.Join(f.path, name), []byte(text), 0o600); err != nil {
		f.t.Fatal(err)
	}
}

// serve starts a server of the folder's shoal.yaml, and has it reload that.
func (f folder) serve() *running {
	f.t.Helper()
	r := start(f.t)
	r.Reloading(func(ctx context.Context, afresh bool) (done admin.Reloaded, err error) {
		file, err := config.Load(filepath.Join(f.path, "shoal.yaml"))
		if err == nil {
			done.Applied, err = r.Apply(ctx, file, afresh)
		}
		return done, err
	})
	if _, err := r.Reload(f.t.Context(), false); err != nil {
		f.t.Fatal(err)
	}
	return r
}

func (r *running) wantAnswer(t *testing.T, path, want string) {
	t.Helper()
	if status, body := r.get(t, path); status != 200 || strings.TrimSpace(body) != want {
		t.Errorf("%s answered %d %s, want %s", path, status, body, want)
	}
}

// pids are the workers of a backend.
func (r *running) pids(backend string) (pids []int) {
	for _, replica := range r.backends()[backend].Replicas {
		pids = append(pids, replica.PID)
	}
	return pids
}

const answers1 = "def model(request):\n    return 1\n"

func TestAReloadChangesWhatDiffersAndLeavesTheRestAlone(t *testing.T) {
	f := newFolder(t)
	f.write("a.py", answers1)
	f.write("b.py", answers1)
	f.write("shoal.yaml", `
backends:
  a: {python: a.py:model}
  b: {python: b.py:model, config: {num_replicas: 2}}
  c: {python: b.py:model}
endpoints:
  a: {route: /a, backend: a, example: {}}
  c: {route: /c, backend: c}
`)
	r := f.serve()
	r.wantAnswer(t, "/a", "1")
	b := r.pids("b")

	f.write("a.py", strings.Replace(answers1, "1", "2", 1))
	f.write("shoal.yaml", `
backends:
  a: {python: a.py:model}
  b: {python: b.py:model, config: {num_replicas: 1}}
  d: {python: b.py:model}
endpoints:
  a: {route: /a, backend: a, example: {}}
  both: {route: /both, traffic: {b: 0.5, d: 0.5}}
`)
	done, err := r.Reload(t.Context(), false)
	if err != nil {
		t.Fatal(err)
	}
	want := serving.Applied{
		Deployed: []string{"a", "d"}, Updated: []string{"b"}, Removed: []string{"c"},
		Endpoints: []string{"both"}, RemovedEndpoints: []string{"c"},
	}
	if diff := cmp.Diff(want, done.Applied, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("it did (-want +got):\n%s", diff)
	}
	r.wantAnswer(t, "/a", "2")
	r.wantAnswer(t, "/both", "1")
	if status, _ := r.get(t, "/c"); status != 404 {
		t.Errorf("/c answered %d", status)
	}
	if left := r.pids("b"); len(left) != 1 || !slices.Contains(b, left[0]) {
		t.Errorf("b's workers were %v and are %v", b, left)
	}

	done, err = r.Reload(t.Context(), false)
	if err != nil || len(slices.Concat(done.Deployed, done.Updated, done.Removed, done.Endpoints, done.RemovedEndpoints)) > 0 {
		t.Errorf("the same again did %+v, %v", done, err)
	}
	if done, err = r.Reload(t.Context(), true); err != nil || !slices.Equal(done.Deployed, []string{"a", "b", "d"}) {
		t.Errorf("afresh it did %+v, %v", done, err)
	}
}

func TestAReloadThatFailsLeavesWhatWasServed(t *testing.T) {
	f := newFolder(t)
	f.write("a.py", answers1)
	file := "backends: {a: {python: a.py:model}}\nendpoints: {a: {route: /a, backend: a}}\n"
	f.write("shoal.yaml", file)
	r := f.serve()
	before := r.pids("a")
	for name, test := range map[string]struct {
		model, file string
		want        []string
		code        serving.Code
	}{
		"the file is wrong":            {answers1, "backends:\n  a: {python: a.py:model, confg: {}}\n", []string{`shoal.yaml:2:27: unknown key "confg"`}, serving.InvalidArgument},
		"the model does not load":      {"raise RuntimeError('no weights')\n", file, []string{"no weights", "Traceback"}, serving.LoadFailed},
		"an endpoint cannot be served": {answers1, file + "  b: {route: /-/b, backend: a}\n", []string{"shoal.yaml"}, serving.InvalidArgument},
	} {
		t.Run(name, func(t *testing.T) {
			f.write("a.py", test.model)
			f.write("shoal.yaml", test.file)
			_, err := r.Reload(t.Context(), false)
			if err == nil {
				t.Fatal("all is well")
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("the error does not say %q:\n%v", want, err)
				}
			}
			if got := serving.Describe(err).Code; got != test.code {
				t.Errorf("its code is %s, want %s", got, test.code)
			}
			r.wantAnswer(t, "/a", "1")
			if after := r.pids("a"); !slices.Equal(after, before) {
				t.Errorf("the workers were %v and are %v", before, after)
			}
		})
	}
}

func TestAReloadOfAFileThatIsBeingWrittenChangesNothing(t *testing.T) {
	f := newFolder(t)
	f.write("a.py", answers1)
	f.write("shoal.yaml", "backends: {a: {python: a.py:model}}\nendpoints: {a: {route: /a, backend: a}}\n")
	r := f.serve()
	for text, want := range map[string]string{
		"":                                      "the file is empty",
		"# written by hand\n":                   "the file is empty",
		"http: {}\n":                            `no section backends any more, which would remove all 1; is it still being written? To remove them, write "backends: {}"`,
		"backends:\n":                           "no section backends any more",
		"backends: {a: {python: a.py:model}}\n": "no section endpoints any more",
		"backends: {a: {python: a.py:model}}\nendpoints:\n": "no section endpoints any more",
	} {
		f.write("shoal.yaml", text)
		_, err := r.Reload(t.Context(), false)
		if err == nil || !strings.Contains(err.Error(), want) || serving.Describe(err).Code != serving.InvalidArgument {
			t.Errorf("a reload of %q said %v", text, err)
		}
		r.wantAnswer(t, "/a", "1")
	}
	for _, text := range []string{"backends: {a: {python: a.py:model}}\nendpoints: {}\n", "backends: {}\n"} {
		f.write("shoal.yaml", text)
		if _, err := r.Reload(t.Context(), false); err != nil {
			t.Errorf("a reload of %q said %v", text, err)
		}
		if status, _ := r.get(t, "/a"); status != 404 {
			t.Errorf("after a reload of %q it is answered %d", text, status)
		}
	}
	if left := r.backends(); len(left) != 0 {
		t.Errorf("there are still %v", left)
	}
}

func TestAServerWithoutAFileHasNothingToReload(t *testing.T) {
	r := start(t)
	client, err := admin.Dial(r.AdminAddress(), "", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := client.Reload(t.Context(), false); !errors.Is(err, &serving.Error{Code: serving.InvalidArgument}) {
		t.Errorf("the error is %v", err)
	}
}

func TestReloadsFollowEachOther(t *testing.T) {
	r := start(t)
	first, release := make(chan struct{}), make(chan struct{})
	running := 0 // guarded by there being one reload at a time: the race detector looks
	r.Reloading(func(context.Context, bool) (admin.Reloaded, error) {
		if running++; running == 1 {
			close(first)
			<-release
		}
		return admin.Reloaded{}, nil
	})
	ended := make(chan error, 3)
	for range 3 {
		go func() {
			_, err := r.Reload(context.Background(), false)
			ended <- err
		}()
	}
	<-first
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.Reload(gone, false); !errors.Is(err, context.Canceled) {
		t.Errorf("one that has no time to wait said %v", err)
	}
	close(release)
	for range 3 {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	if running != 3 {
		t.Errorf("%d ran", running)
	}
}

func TestAReloadOnASignalIsInTheAuditLog(t *testing.T) {
	audit := filepath.Join(t.TempDir(), "audit.log")
	r := start(t, func(o *Options) { o.AuditFile = audit })
	fails := true
	r.Reloading(func(context.Context, bool) (done admin.Reloaded, err error) {
		if fails {
			err = serving.Errorf(serving.InvalidArgument, "as the test wants it")
		}
		return done, err
	})
	r.ReloadOnSignal(t.Context())
	fails = false
	r.ReloadOnSignal(t.Context())
	written, err := os.ReadFile(audit)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(written)), "\n")
	const head = `"msg":"audit","change":"reload","who":"","by":"SIGHUP","result":`
	if len(lines) != 2 || !strings.Contains(lines[0], head+`"failed","code":"InvalidArgument","error":"as the test wants it"`) || !strings.Contains(lines[1], head+`"done"`) {
		t.Errorf("the audit log is %s", written)
	}
}
