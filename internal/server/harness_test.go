package server

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/shoalserve/shoal/internal/config"
	"github.com/shoalserve/shoal/internal/serving"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what must happen.
const patience = 2 * time.Minute

// running is a server that runs, and what came of it.
type running struct {
	*Server
	temp  string // the directory of its temporary files
	said  *buffer
	stop  context.CancelFunc
	ended chan error
}

// buffer is a bytes.Buffer for several goroutines.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// interpreter is the Python itself, without the shell scripts that may stand in
// for it and need an environment of their own.
var interpreter = sync.OnceValue(func() string {
	path, err := exec.Command("python3", "-c", "import sys; print(sys.executable)").Output()
	if err != nil {
		return "python3"
	}
	return strings.TrimSpace(string(path))
})

// options are those of a server that leaves nothing outside temp.
func options(t *testing.T) (opts Options, temp string) {
	t.Helper()
	temp, err := os.MkdirTemp("", "shoal-test-") // a short path, for the socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(temp); err != nil {
			t.Error(err)
		}
	})
	t.Setenv("TMPDIR", temp)
	return Options{
		HTTPAddress: "127.0.0.1:0", AdminAddress: "unix:" + filepath.Join(temp, "admin.sock"), Interpreter: interpreter(),
	}, temp
}

// start runs a server until the test ends, at the latest. change changes its options.
func start(t *testing.T, change ...func(*Options)) *running {
	t.Helper()
	opts, temp := options(t)
	for _, c := range change {
		c(&opts)
	}
	r := &running{temp: temp, said: &buffer{}, ended: make(chan error, 1)}
	opts.Output = r.said
	var err error
	if r.Server, err = New(opts); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r.stop = cancel
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.ended <- r.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
		http.DefaultClient.CloseIdleConnections()
	})
	return r
}

// end waits for Run to return.
func (r *running) end(t *testing.T) error {
	t.Helper()
	select {
	case err := <-r.ended:
		return err
	case <-time.After(patience):
		t.Fatal("the server did not stop")
		return nil
	}
}

// get makes a web query.
func (r *running) get(t *testing.T, path string) (status int, body string) {
	t.Helper()
	status, body, err := r.tryGet(path)
	if err != nil {
		t.Fatal(err)
	}
	return status, body
}

func (r *running) tryGet(path string) (status int, body string, err error) {
	response, err := http.Get("http://" + r.HTTPAddress() + path)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	raw, err := io.ReadAll(response.Body)
	return response.StatusCode, string(raw), err
}

// states are the state directories of servers.
func (r *running) states(t *testing.T) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(r.temp, "shoal-state-*"))
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// parse reads a config whose files are those in testdata.
func parse(t *testing.T, text string) *config.File {
	t.Helper()
	dir, err := filepath.Abs("testdata")
	if err != nil {
		t.Fatal(err)
	}
	file, err := config.Parse("shoal.yaml", dir, []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return file
}

// pipes are the two named pipes of the model "gate".
type pipes struct{ entered, opened string }

func newPipes(t *testing.T) pipes {
	t.Helper()
	dir := t.TempDir()
	p := pipes{filepath.Join(dir, "entered"), filepath.Join(dir, "opened")}
	for _, path := range []string{p.entered, p.opened} {
		if err := syscall.Mkfifo(path, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

// path is the query that goes through the pipes.
func (p pipes) path() string { return "/gate?entered=" + p.entered + "&opened=" + p.opened }

// pass opens one of the pipes, which waits for the other side.
func pass(t *testing.T, path string, flag int) {
	t.Helper()
	file, err := os.OpenFile(path, flag, 0)
	if err != nil {
		t.Fatal(err)
	}
	file.Close()
}

// backends are the statuses of what is deployed, by name.
func (r *running) backends() map[string]serving.BackendStatus {
	found := make(map[string]serving.BackendStatus)
	for _, b := range r.Registry.BackendStatuses() {
		found[b.Name] = b
	}
	return found
}
