package python

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/shoalserve/shoal/internal/serving"
	"github.com/shoalserve/shoal/internal/wire"
)

// runtime starts the workers of one backend.
type runtime struct {
	spec Spec
	opts Options
	// cgroups finds where groups for workers can be made; nil: nowhere.
	cgroups func() *cgroups
	// start makes a worker's process; nil means spawn.
	start func(serving.ReplicaSpec) (*process, error)
}

// initFrame is the body of an INIT frame.
type initFrame struct {
	Protocol     int      `json:"protocol"`
	Backend      string   `json:"backend"`
	Replica      int      `json:"replica"`
	Source       Source   `json:"source"`
	Concurrency  int      `json:"concurrency"`
	MaxBatchSize int      `json:"max_batch_size"`
	Isolate      bool     `json:"isolate"`
	SysPath      []string `json:"sys_path,omitempty"`
	Cwd          string   `json:"cwd,omitempty"`
	Shared       *shared  `json:"shared,omitempty"`
}

// shared tells a worker of its shared memory.
type shared struct {
	FD   int `json:"fd"`
	Size int `json:"size"`
}

// readyFrame is the body of a READY frame.
type readyFrame struct {
	Protocol     int                        `json:"protocol"`
	PID          int                        `json:"pid"`
	Python       string                     `json:"python"`
	SDK          string                     `json:"sdk"`
	AcceptsBatch bool                       `json:"accepts_batch"`
	Arrays       map[string]json.RawMessage `json:"arrays"`
}

// Start implements serving.Runtime.
func (r *runtime) Start(ctx context.Context, spec serving.ReplicaSpec) (serving.Instance[*serving.Call, serving.Response], error) {
	start := r.start
	if start == nil {
		start = r.spawn
	}
	p, err := start(spec)
	if err != nil {
		return nil, &serving.LoadError{Backend: spec.Backend, Type: "StartError", Message: err.Error()}
	}
	stopKilling := context.AfterFunc(ctx, p.kill)
	ready, err := r.handshake(p, spec)
	var methods map[string]arrayMethod
	if err == nil {
		if methods, err = readMethods(ready.Arrays); err != nil {
			err = &serving.LoadError{Backend: spec.Backend, Type: "ValueError", Message: err.Error()}
		}
	}
	if !stopKilling() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		p.kill()
		exit := p.reap()
		if _, ok := errors.AsType[*serving.LoadError](err); ok {
			return nil, err
		}
		if ctx.Err() != nil {
			return nil, fmt.Errorf("starting backend %q: %w", spec.Backend, context.Cause(ctx))
		}
		return nil, &serving.LoadError{
			Backend: spec.Backend, Type: "StartError",
			Message:   fmt.Sprintf("the worker (%s) ended before it was ready: %v", p.cmd.Path, cmp.Or(exit, err)),
			Traceback: p.stderr.last(),
		}
	}
	w := newWorker(p, spec, ready.AcceptsBatch, methods)
	w.takes = fmt.Sprintf("%s", ready.Arrays)
	return w, nil
}

// handshake sends INIT and waits for READY.
func (r *runtime) handshake(p *process, spec serving.ReplicaSpec) (readyFrame, error) {
	var ready readyFrame
	init := initFrame{
		Protocol: wire.Version, Backend: spec.Backend, Replica: spec.Index, Source: r.spec.Source,
		Concurrency: max(1, spec.Config.MaxConcurrentBatches), MaxBatchSize: spec.Config.MaxBatchSize, Isolate: spec.Config.OnBatchError != serving.FailAll,
		SysPath: r.spec.SysPath, Cwd: r.spec.Cwd,
	}
	if p.arena != nil {
		init.Shared = &shared{FD: sharedFD, Size: arenaSize}
	}
	body, err := json.Marshal(init)
	if err != nil {
		return ready, fmt.Errorf("encoding INIT: %w", err)
	}
	frame := append(wire.Begin(nil, wire.Init), body...)
	if err := wire.End(frame, 0, 0); err != nil {
		return ready, err
	}
	if _, err := p.conn.Write(frame); err != nil {
		return ready, fmt.Errorf("sending INIT: %w", err)
	}
	kind, body, err := wire.Read(p.conn)
	switch {
	case err != nil:
		return ready, fmt.Errorf("waiting for the worker to be ready: %w", err)
	case kind == wire.Failed:
		var failure wire.ErrorObject
		if err := json.Unmarshal(body, &failure); err != nil {
			return ready, fmt.Errorf("reading the worker's FAILED frame: %w", err)
		}
		return ready, &serving.LoadError{Backend: spec.Backend, Type: failure.Type, Message: failure.Message, Traceback: failure.Traceback}
	case kind != wire.Ready:
		return ready, fmt.Errorf("the worker answered INIT with a frame of kind %d", kind)
	}
	if err := json.Unmarshal(body, &ready); err != nil {
		return ready, fmt.Errorf("reading the worker's READY frame: %w", err)
	}
	if ready.Protocol != wire.Version {
		return ready, &serving.LoadError{
			Backend: spec.Backend, Type: "ProtocolError",
			Message: fmt.Sprintf("the Python package shoal %s speaks worker protocol %d, this server speaks %d; install the same version of both", ready.SDK, ready.Protocol, wire.Version),
		}
	}
	return ready, nil
}

// process is a worker's process and what connects it.
type process struct {
	cmd     *exec.Cmd
	conn    *net.UnixConn
	claims  *claims
	cancels *cancels
	arena   *arena  // nil where the system has no shared memory
	cgroup  *cgroup // nil where there is no memory_limit, or the system permits none
	stderr  *lines
}

// What a worker inherits, after its standard streams.
const (
	connFD    = 3
	claimsFD  = 4
	cancelsFD = 5
	sharedFD  = 6
)

// spawn starts the interpreter with one end of a socket pair.
func (r *runtime) spawn(spec serving.ReplicaSpec) (*process, error) {
	conn, theirs, err := socketPair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	claims, err := newClaims()
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	log := func(stream string) func(string) {
		return func(line string) { r.opts.Log(spec.Backend, spec.Index, stream, line) }
	}
	cancels, err := newCancels()
	if err != nil {
		return nil, errors.Join(err, conn.Close(), claims.close())
	}
	p := &process{conn: conn, claims: claims, cancels: cancels, stderr: &lines{emit: log("stderr")}}
	if p.arena, err = newArena(); err != nil {
		// Large batches go through the socket then, as elsewhere.
		r.opts.Logger.Warn("no shared memory for a worker", "backend", spec.Backend, "replica", spec.Index, "error", err)
	}
	python := cmp.Or(r.spec.Interpreter, r.opts.Interpreter)
	p.cmd = exec.Command(python, "-m", "shoal._worker", "--fd", strconv.Itoa(connFD), "--claims", strconv.Itoa(claimsFD), "--cancels", strconv.Itoa(cancelsFD)) // #nosec G204 -- deployers choose it
	p.cmd.ExtraFiles = []*os.File{theirs, claims.read, cancels.read}
	if p.arena != nil {
		p.cmd.ExtraFiles = append(p.cmd.ExtraFiles, p.arena.memory.file)
	}
	p.cmd.Dir = r.spec.Cwd
	p.cmd.Env = r.opts.workerEnvironment(spec.Config.Env)
	p.cmd.Stdout, p.cmd.Stderr = &lines{emit: log("stdout")}, p.stderr
	// A process group of its own: an interrupt on the terminal is for the
	// server, which then ends its workers in good order.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: r.opts.User.credential()}
	p.cmd.WaitDelay = 2 * time.Second // for grandchildren that hold the pipes
	if err := start(p.cmd); err != nil {
		return nil, errors.Join(fmt.Errorf("starting the interpreter: %w", err), p.close())
	}
	if err := limit(p.cmd.Process.Pid, spec.Config); err != nil {
		p.kill()
		_ = p.reap() // it was killed
		return nil, err
	}
	p.cgroup = r.confine(p.cmd.Process.Pid, spec)
	if err := errors.Join(claims.inherited(), cancels.inherited()); err != nil {
		p.kill()
		return nil, errors.Join(fmt.Errorf("preparing a pipe: %w", err), p.reap())
	}
	return p, nil
}

// confine puts a worker with a memory_limit into a cgroup of its own, before it has
// loaded the model and could start a process. Nil: it has the limits of limit alone.
func (r *runtime) confine(pid int, spec serving.ReplicaSpec) *cgroup {
	if spec.Config.MemoryLimit == 0 || r.cgroups == nil {
		return nil
	}
	groups := r.cgroups()
	if groups == nil {
		return nil
	}
	group, err := groups.new(int64(spec.Config.MemoryLimit))
	if err == nil {
		if err = group.join(pid); err == nil {
			return group
		}
		group.remove()
	}
	r.opts.Logger.Warn("no cgroup for a worker: its memory_limit bounds its heap alone", "backend", spec.Backend, "replica", spec.Index, "error", err)
	return nil
}

// socketPair returns a connected pair: one end to use here, one to inherit.
func socketPair() (*net.UnixConn, *os.File, error) {
	// Another worker that is started meanwhile must not inherit an end: this one's death
	// would go unnoticed as long as that one lives.
	syscall.ForkLock.RLock()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err == nil {
		syscall.CloseOnExec(fds[0])
		syscall.CloseOnExec(fds[1]) // ExtraFiles clears it for the one child
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return nil, nil, fmt.Errorf("making a socket pair: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "worker"), os.NewFile(uintptr(fds[1]), "worker")
	defer ours.Close() // FileConn duplicates it
	conn, err := net.FileConn(ours)
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("using a socket pair: %w", err), theirs.Close())
	}
	return conn.(*net.UnixConn), theirs, nil
}

// kill ends the worker's whole process group, unless it was waited for already
// and its number may belong to another.
func (p *process) kill() { p.signal(syscall.SIGKILL) }

// signal sends a signal to the worker's whole process group, likewise.
func (p *process) signal(s syscall.Signal) {
	if p.cmd.Process.Signal(syscall.Signal(0)) == nil {
		// The only error left is that it is gone, which is what was wanted.
		_ = syscall.Kill(-p.cmd.Process.Pid, s)
	}
}

// reap waits for the process to end and closes what connected it.
func (p *process) reap() error {
	err := p.cgroup.ended(p.cmd.Wait())
	p.cgroup.remove()
	_ = p.close() // nothing is left to lose
	return err
}

func (p *process) close() error {
	return errors.Join(p.conn.Close(), p.claims.close(), p.cancels.close(), p.arena.close())
}

// lines cuts what a process writes into lines and keeps the last few.
type lines struct {
	emit func(string)

	mu     sync.Mutex
	rest   []byte
	recent []string
}

const (
	maxLine    = 16 << 10 // bytes; longer lines are cut
	keptRecent = 40
)

// Write implements io.Writer; it never fails.
func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := len(b)
	for len(b) > 0 {
		line, rest, ended := bytes.Cut(b, []byte{'\n'})
		l.rest = append(l.rest, line...)
		b = rest
		if ended || len(l.rest) > maxLine {
			l.line(string(bytes.TrimSuffix(l.rest, []byte{'\r'})))
			l.rest = l.rest[:0]
		}
	}
	return n, nil
}

func (l *lines) line(s string) {
	l.recent = append(l.recent, s)
	if len(l.recent) > keptRecent {
		l.recent = l.recent[1:]
	}
	l.emit(s)
}

// last returns the most recent lines.
func (l *lines) last() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(append(l.recent, string(l.rest)), "\n")
}
