package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// patience is how long a script waits for a server.
const patience = 2 * time.Minute

// daemon is a server that a script started.
type daemon struct {
	process *exec.Cmd
	stdin   io.Closer
	ended   chan error
	stderr  *os.File
}

// daemons are the running servers of each script; scripts run side by side.
var daemons sync.Map // of *testscript.TestScript to *daemon

func daemonOf(ts *testscript.TestScript) *daemon {
	d, _ := daemons.Load(ts)
	running, _ := d.(*daemon)
	return running
}

// start runs "shoal serve ARGS..." in the background until it says that it is
// ready, and sets $HTTP and $SHOAL_SERVER. With -embedded it is started as the
// Python SDK does, else with --json. "! start" wants it to fail, and sets
// stdout.
func start(ts *testscript.TestScript, neg bool, args []string) {
	mode := "--json"
	if len(args) > 0 && args[0] == "-embedded" {
		mode, args = "--embedded", args[1:]
	}
	args = append([]string{"serve", mode, "--http", "127.0.0.1:0"}, args...)
	d := launch(ts, args)
	line := make(chan string, 1)
	stdout, err := d.process.StdoutPipe()
	ts.Check(err)
	ts.Check(d.process.Start())
	go func() { // ends with the process
		r := bufio.NewReader(stdout)
		first, _ := r.ReadString('\n')
		line <- first
		rest, _ := io.ReadAll(r)
		err := d.process.Wait()
		if len(rest) > 0 {
			ts.Logf("more on stdout: %s", rest)
		}
		d.ended <- err
	}()
	report := await(ts, d, line)
	var said struct {
		Ready        bool
		HTTPAddress  string `json:"http_address"`
		AdminAddress string `json:"admin_address"`
		Error        string
	}
	ts.Check(json.Unmarshal([]byte(report), &said))
	switch {
	case neg && said.Ready:
		ts.Fatalf("the server started: %s", report)
	case neg:
		if err := <-d.ended; exitStatus(err) != failure {
			ts.Fatalf("the server ended with %v", err)
		}
		daemons.Delete(ts)
		ts.Logf("[stdout]\n%s[stderr]\n%s", report, d.said(ts))
		ts.Setenv("REPORT", said.Error)
		return
	case !said.Ready:
		ts.Fatalf("not ready: %s%s", report, d.said(ts))
	}
	ts.Setenv("HTTP", said.HTTPAddress)
	ts.Setenv("SHOAL_SERVER", said.AdminAddress)
}

func launch(ts *testscript.TestScript, args []string) *daemon {
	executable, err := exec.LookPath("shoal") // of testscript's own bin directory
	ts.Check(err)
	d := &daemon{process: exec.Command(executable, args...), ended: make(chan error, 1)}
	d.stderr, err = os.CreateTemp(ts.Getenv("WORK"), "stderr-")
	ts.Check(err)
	d.process.Stderr, d.process.Dir = d.stderr, ts.Getenv("WORK")
	for _, name := range []string{"PATH", "HOME", "XDG_RUNTIME_DIR", "TMPDIR", "SHOAL_PYTHON", "SHOAL_TOKEN", "PYTHONDONTWRITEBYTECODE"} {
		d.process.Env = append(d.process.Env, name+"="+ts.Getenv(name))
	}
	d.stdin, err = d.process.StdinPipe()
	ts.Check(err)
	daemons.Store(ts, d)
	ts.Defer(func() {
		if daemonOf(ts) == d {
			_ = d.process.Process.Kill()
			<-d.ended
			daemons.Delete(ts)
		}
		d.stderr.Close()
	})
	return d
}

func await(ts *testscript.TestScript, d *daemon, line <-chan string) string {
	select {
	case report := <-line:
		if report == "" {
			ts.Fatalf("the server said nothing:\n%s", d.said(ts))
		}
		return report
	case <-time.After(patience):
		ts.Fatalf("the server was not ready in time:\n%s", d.said(ts))
		return ""
	}
}

func (d *daemon) said(ts *testscript.TestScript) []byte {
	said, err := os.ReadFile(d.stderr.Name())
	ts.Check(err)
	return said
}

// stop ends a server by closing its standard input, and wants status 0; its
// standard error becomes the file "log".
func stop(ts *testscript.TestScript, neg bool, args []string) {
	d := running(ts, neg)
	ts.Check(d.stdin.Close())
	d.finish(ts, 0)
}

// sendSignal sends a server SIGTERM or SIGINT, and wants status 0.
func sendSignal(ts *testscript.TestScript, neg bool, args []string) {
	d := running(ts, neg)
	number := map[string]syscall.Signal{"TERM": syscall.SIGTERM, "INT": syscall.SIGINT}[strings.Join(args, "")]
	ts.Check(d.process.Process.Signal(number))
	d.finish(ts, 0)
}

// hangUp sends a server SIGHUP and waits until it logs a line that matches:
// "hup PATTERN".
func hangUp(ts *testscript.TestScript, neg bool, args []string) {
	d := running(ts, neg)
	if len(args) != 1 {
		ts.Fatalf("usage: hup PATTERN")
	}
	pattern, err := regexp.Compile(args[0])
	ts.Check(err)
	before := len(d.said(ts))
	ts.Check(d.process.Process.Signal(syscall.SIGHUP))
	for deadline := time.Now().Add(patience); !pattern.Match(d.said(ts)[before:]); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			ts.Fatalf("the server never said %q:\n%s", pattern, d.said(ts))
		}
	}
}

func running(ts *testscript.TestScript, neg bool) *daemon {
	d := daemonOf(ts)
	if d == nil || neg {
		ts.Fatalf("no server runs")
	}
	return d
}

func (d *daemon) finish(ts *testscript.TestScript, status int) {
	select {
	case err := <-d.ended:
		daemons.Delete(ts)
		said := d.said(ts)
		ts.Logf("[stderr]\n%s", said)
		ts.Check(os.WriteFile(ts.MkAbs("log"), said, 0o600))
		if exitStatus(err) != status {
			ts.Fatalf("the server ended with %v", err)
		}
	case <-time.After(patience):
		ts.Fatalf("the server did not stop")
	}
}

func exitStatus(err error) int {
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return exit.ExitCode()
	}
	return 0
}

// query makes a web query, "http [METHOD] PATH STATUS [BODY]".
func query(ts *testscript.TestScript, neg bool, args []string) {
	method := http.MethodGet
	if len(args) > 0 && !strings.HasPrefix(args[0], "/") {
		method, args = args[0], args[1:]
	}
	if neg || len(args) < 2 {
		ts.Fatalf("usage: http [METHOD] PATH STATUS [BODY]")
	}
	request, err := http.NewRequest(method, "http://"+ts.Getenv("HTTP")+args[0], nil)
	ts.Check(err)
	response, err := http.DefaultClient.Do(request)
	ts.Check(err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	ts.Check(err)
	body = bytes.TrimSpace(body)
	if got := response.Status[:3]; got != args[1] || (len(args) > 2 && string(body) != args[2]) {
		ts.Fatalf("%s %s answered %s %s", method, args[0], got, body)
	}
}

// awaitSocket waits until somebody answers on a Unix socket.
func awaitSocket(ts *testscript.TestScript, neg bool, args []string) {
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		if conn, err := net.Dial("unix", args[0]); err == nil {
			conn.Close()
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("nobody answers on %s", args[0])
		}
	}
}

// misused runs a command that must end with status 2.
func misused(ts *testscript.TestScript, neg bool, args []string) {
	err := ts.Exec(args[0], args[1:]...)
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != misuse {
		ts.Fatalf("ended with %v, want status %d", err, misuse)
	}
}
