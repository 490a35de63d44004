package python

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	goruntime "runtime"
	"sync"
	"syscall"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/shoalserve/shoal/internal/serving"
)

// faultyDir is the environment variable that makes this test's binary a faulty
// worker: it names the folder with the worker's plan.
const faultyDir = "SHOAL_TEST_FAULTY_WORKER"

func TestMain(m *testing.M) {
	if dir := os.Getenv(faultyDir); dir != "" {
		beFaultyWorker(dir)
	}
	goleak.VerifyTestMain(m)
}

// beFaultyWorker is the process of a faulty worker.
func beFaultyWorker(dir string) {
	check := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(3)
		}
	}
	var p plan
	text, err := os.ReadFile(dir + "/plan")
	check(err)
	check(json.Unmarshal(text, &p))
	life := 0
	for ; ; life++ { // each process takes the next number
		f, err := os.OpenFile(fmt.Sprintf("%s/life-%d", dir, life), os.O_CREATE|os.O_EXCL, 0o600)
		if err == nil {
			f.Close()
			break
		}
	}
	journal, err := os.OpenFile(dir+"/journal", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	check(err)
	conn, err := net.FileConn(os.NewFile(connFD, "conn"))
	check(err)
	memory, err := unix.Mmap(sharedFD, 0, arenaSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	check(err)
	w := p.worker(life)
	w.conn, w.claims, w.memory = conn, claimsFD, memory
	w.print = func(b []byte) { _, _ = os.Stdout.Write(b) }
	w.die = dieForReal
	w.hang = func() { select {} }
	w.tell = func(d deed) {
		line, err := json.Marshal(d)
		check(err)
		_, err = journal.Write(append(line, '\n')) // one write: it is there whatever follows
		check(err)
	}
	go func() { select {} }() // a hang is none of the Go runtime's deadlocks
	_ = w.run()
	os.Exit(0)
}

func dieForReal(how death) {
	switch how {
	case killed:
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	case crashes:
		_ = syscall.Kill(os.Getpid(), syscall.SIGABRT)
	case exits:
		os.Exit(0)
	}
	os.Exit(1)
}

// worker is the one with a number, without what it runs in.
func (p plan) worker(life int) *faultyWorker {
	if life >= p.Lives {
		p.Fatal, p.Init = 0, 0
	}
	if life == 0 {
		p.Init = 0 // or there is nothing to test
	}
	return &faultyWorker{name: fmt.Sprint(life), plan: p, dice: rand.New(rand.NewPCG(p.Seed, uint64(life)))}
}

// faultyRuntime starts faulty workers as goroutines. Each has a process all the
// same, a small one that only lives and dies, so that the server's side is whole.
type faultyRuntime struct {
	runtime
	plan plan

	mu    sync.Mutex
	lives int
	deeds []deed
	over  sync.WaitGroup
}

func newFaultyRuntime(p plan) *faultyRuntime {
	r := &faultyRuntime{plan: p}
	r.opts = NewDeployer(Options{}).opts
	r.start = r.spawnFaulty
	return r
}

func (r *faultyRuntime) tell(d deed) {
	r.mu.Lock()
	r.deeds = append(r.deeds, d)
	r.mu.Unlock()
}

// spawnFaulty takes the place of spawn.
func (r *faultyRuntime) spawnFaulty(serving.ReplicaSpec) (*process, error) {
	conn, theirs, err := socketPair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	claims, err := newClaims()
	if err != nil {
		return nil, err
	}
	cancels, err := newCancels()
	if err != nil {
		return nil, err
	}
	p := &process{conn: conn, claims: claims, cancels: cancels, stderr: &lines{emit: func(string) {}}}
	if p.arena, err = newArena(); err != nil {
		return nil, err
	}
	body, err := newBody(p)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(claims.inherited(), cancels.inherited()); err != nil {
		return nil, err
	}
	r.mu.Lock()
	w := r.plan.worker(r.lives)
	r.lives++
	r.mu.Unlock()
	if err := body.inherit(w, theirs, p); err != nil {
		return nil, err
	}
	w.tell = r.tell
	r.over.Go(func() { body.live(w) })
	return p, nil
}

// body is what a faulty worker lives in: a process that copies its input to its
// output until that ends.
type body struct {
	cmd    *exec.Cmd
	stdin  interface{ Close() error }
	write  func([]byte) (int, error)
	death  *os.File // ends when the process does
	dead   chan struct{}
	conn   net.Conn
	claims int
	memory []byte
}

func newBody(p *process) (*body, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer w.Close() // the process has it
	p.cmd = exec.Command("cat")
	p.cmd.ExtraFiles = []*os.File{w}
	p.cmd.Stdout, p.cmd.Stderr = &lines{emit: func(string) {}}, p.stderr
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	stdin, err := p.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	return &body{cmd: p.cmd, stdin: stdin, write: stdin.Write, death: r, dead: make(chan struct{})}, nil
}

// inherit gives the worker descriptors of its own, as a process would have them.
func (b *body) inherit(w *faultyWorker, theirs *os.File, p *process) (err error) {
	if b.conn, err = net.FileConn(theirs); err != nil {
		return err
	}
	if err := onDescriptor(p.claims.read, func(fd int) error { b.claims, err = unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0); return err }); err != nil {
		return err
	}
	// The whole of a sealed memory stays mapped without its descriptor.
	b.memory, err = unix.Mmap(int(p.arena.memory.file.Fd()), 0, arenaSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	w.conn, w.claims, w.memory = b.conn, b.claims, b.memory
	w.print = func(text []byte) { _, _ = b.write(text) }
	w.die, w.hang = b.die, b.hang
	return err
}

// live runs the worker and ends its process with it, or it with its process.
func (b *body) live(w *faultyWorker) {
	go func() { // ends with the process
		_, _ = b.death.Read(make([]byte, 1))
		b.death.Close()
		b.conn.Close()
		close(b.dead)
	}()
	worked := make(chan struct{})
	go func() {
		defer close(worked)
		_ = w.run()
	}()
	<-worked
	_ = b.stdin.Close()
	<-b.dead // then its process is gone
	_ = unix.Close(b.claims)
	_ = unix.Munmap(b.memory)
}

// die ends the worker's goroutine, after its process or just before it.
func (b *body) die(how death) {
	switch how {
	case killed:
		_ = b.cmd.Process.Signal(syscall.SIGKILL)
	case crashes:
		_ = b.cmd.Process.Signal(syscall.SIGSEGV)
	}
	goruntime.Goexit()
}

func (b *body) hang() {
	<-b.dead
	goruntime.Goexit()
}

// pool is the backend of a schedule whose workers are goroutines.
func (r *faultyRuntime) pool(ctx context.Context, config serving.Config) (serving.Backend, error) {
	return serving.NewCallPool(ctx, "model:v1", serving.Model[*serving.Call, serving.Response]{
		Kind: "python", Runtime: r, Key: (*serving.Call).BatchKey, Size: (*serving.Call).Size,
	}, config, serving.Deps{})
}
