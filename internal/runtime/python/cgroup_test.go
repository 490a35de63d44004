//go:build linux

package python

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/shoalserve/shoal/internal/serving"
)

// needCgroups skips a test where the system does not permit the server groups.
func needCgroups(t *testing.T) *cgroups {
	t.Helper()
	g, err := findCgroups()
	if err != nil {
		t.Skipf("no cgroups here: %v", err)
	}
	t.Cleanup(func() { // after the backend is closed: what was made is gone
		var left []string
		for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
			if left, _ = filepath.Glob(fmt.Sprintf("%s/%s%d-*", g.dir, cgroupPrefix, os.Getpid())); left == nil {
				return
			}
			for _, dir := range left { // one that was busy with ending is the next backend's to remove
				_ = os.Remove(dir)
			}
		}
		t.Errorf("left behind: %q", left)
	})
	return g
}

const starved = "out of memory: it and its processes needed more than memory_limit (128 MiB)"

func TestAWorkerThatTakesMemoryWhichIsNotItsHeapIsKilledAndSaysWhy(t *testing.T) {
	needCgroups(t)
	b := mustDeploy(t, "greedy", serving.Config{MaxBatchSize: 1, MemoryLimit: 128 << 20})
	pid := mustPID(t, submit(t, b, api(`{"shared":16}`))())
	c := submit(t, b, api(`{"shared":1024}`))()
	if serving.Describe(c.Err).Code != serving.WorkerDied || !strings.Contains(c.Err.Error(), starved) {
		t.Errorf("got %v", c.Err)
	}
	if got := mustPID(t, submit(t, b, api(`{"shared":16}`))()); got == pid {
		t.Errorf("answered by %d, which should have been killed", got)
	}
}

func TestTheProcessesThatAModelStartsCountWithItsWorker(t *testing.T) {
	needCgroups(t)
	b := mustDeploy(t, "greedy", serving.Config{MaxBatchSize: 1, MemoryLimit: 128 << 20})
	c := submit(t, b, api(`{"child":1024}`))()
	// Version 1 kills the largest process, version 2 all of them.
	if c.Err == nil && string(c.Response.Body) != "-9" || c.Err != nil && !strings.Contains(c.Err.Error(), starved) {
		t.Errorf("got %v %v", c.Response, c.Err)
	}
}

func TestAModelThatNeedsTooMuchMemoryToLoadSaysSo(t *testing.T) {
	needCgroups(t)
	_, err := deploy(t, file("Hoarder"), serving.Config{MemoryLimit: 128 << 20}, Options{})
	if load, ok := errors.AsType[*serving.LoadError](err); !ok || !strings.Contains(load.Message, starved) {
		t.Errorf("got %v", err)
	}
}

// tree makes files below a directory of the test's.
func tree(t *testing.T, files map[string]string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	for name, text := range files {
		file := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o700), os.WriteFile(file, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func content(t *testing.T, elem ...string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(elem...))
	if err != nil {
		t.Error(err)
	}
	return string(text)
}

func TestWhereCgroupsCanBeMade(t *testing.T) {
	const v1 = "9:name=systemd:/s\n5:cpu,memory:/own/group\n0::/\n"
	for name, test := range map[string]struct {
		own, root string
		files     map[string]string
		delegated string // the directory that is, below the mount point
		want      string // likewise; "" for an error
	}{
		"version 1":                          {own: v1, root: "/", want: "own/group"},
		"version 1, a part mounted":          {own: v1, root: "/own", want: "group"},
		"version 1, another part":            {own: v1, root: "/ow"},
		"outside the namespace":              {own: "5:memory:/../x\n", root: "/"},
		"none":                               {own: "5:cpu:/\n", root: "/"},
		"version 2, the root":                {own: "0::/\n", root: "/", files: map[string]string{"cgroup.subtree_control": "cpu memory\n"}, want: "."},
		"version 2, enabled by the server":   {own: "0::/\n", root: "/", files: map[string]string{"cgroup.controllers": "cpu memory\n"}, want: "."},
		"version 2, no memory":               {own: "0::/\n", root: "/", files: map[string]string{"cgroup.controllers": "cpu\n"}},
		"version 2, a delegated parent":      {own: "0::/s/leaf\n", root: "/", files: map[string]string{"s/cgroup.subtree_control": "memory\n"}, delegated: "s", want: "s"},
		"version 2, the parent is systemd's": {own: "0::/s/leaf\n", root: "/", files: map[string]string{"s/cgroup.subtree_control": "memory\n"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := tree(t, test.files)
			mounts := fmt.Sprintf("1 2 0:3 / /proc rw - proc proc rw\n36 31 0:3 %s %s/cpu rw shared:5 - cgroup cgroup rw,cpu\n35 31 0:32 %s %s rw - cgroup cgroup rw,cpu,memory\n41 31 0:38 %s %s rw shared:1 master:2 - cgroup2 cgroup2 rw\n",
				test.root, dir, test.root, dir, test.root, dir)
			g, err := placeCgroups(test.own, mounts, func(d string) bool { return test.delegated != "" && d == filepath.Join(dir, test.delegated) })
			switch {
			case test.want == "":
				if err == nil {
					t.Errorf("found %s", g.dir)
				}
			case err != nil:
				t.Error(err)
			case g.dir != filepath.Join(dir, test.want):
				t.Errorf("found %s, want %s", g.dir, test.want)
			}
		})
	}
}

func TestAServerHandsTheMemoryControllerOn(t *testing.T) {
	dir := tree(t, map[string]string{"cgroup.controllers": "cpu memory\n", "cgroup.subtree_control": "cpu\n"})
	if err := handOn(dir); err != nil {
		t.Fatal(err)
	}
	if got := content(t, dir, "cgroup.subtree_control"); got != "+memory" {
		t.Errorf("wrote %q", got)
	}
}

func TestWhatIsWrittenToACgroupOfVersion2(t *testing.T) {
	g := &cgroups{dir: t.TempDir(), files: cgroupV2}
	c, err := g.new(256 << 20)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.join(4711); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{"memory.max": "268435456", "memory.swap.max": "0", "memory.oom.group": "1", "cgroup.procs": "4711"} {
		if got := content(t, c.dir, file); got != want {
			t.Errorf("%s: %q", file, got)
		}
	}
}

func TestAKillForWantOfMemoryIsToldFromOthers(t *testing.T) {
	dir := tree(t, map[string]string{"c/memory.events": "low 0\noom 2\noom_kill 0\noom_group_kill 0\n"})
	c := &cgroup{dir: dir + "/c", of: &cgroups{dir: dir, files: cgroupV2}, limit: 128 << 20}
	exit := exec.Command("sh", "-c", "kill -KILL $$").Run()
	if got := ending(c.ended(exit)); !strings.Contains(got, "SIGKILL") {
		t.Error(got)
	}
	if err := os.WriteFile(c.dir+"/memory.events", []byte("oom 2\noom_kill 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := ending(c.ended(exit)); got != starved {
		t.Error(got)
	}
	if got := ending(c.ended(exec.Command("sh", "-c", "exit 3").Run())); !strings.Contains(got, "exit status 3") {
		t.Errorf("a process of the model was killed, not the worker: %s", got)
	}
}

func TestACgroupThatIsStillInUseIsRemovedLater(t *testing.T) {
	dir := tree(t, map[string]string{"c/process": ""})
	g := &cgroups{dir: dir, files: cgroupV2}
	(&cgroup{dir: dir + "/c", of: g}).remove()
	if err := os.Remove(dir + "/c/process"); err != nil {
		t.Fatal("it is gone, with what was in it:", err)
	}
	if _, err := g.new(1 << 30); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir + "/c"); err == nil || len(g.left) > 0 {
		t.Errorf("it is still there; left %q", g.left)
	}
}

func TestGroupsOfServersThatAreGoneAreSweptAway(t *testing.T) {
	gone := exec.Command("true")
	if err := gone.Run(); err != nil {
		t.Fatal(err)
	}
	name := func(pid int) string { return fmt.Sprintf("shoal-%d-7", pid) }
	dir := t.TempDir()
	for _, d := range []string{name(gone.Process.Pid), name(os.Getpid()), "shoal-x-1", "other"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	(&cgroups{dir: dir, files: cgroupV2}).sweep()
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 3 {
		t.Errorf("left %v, %v", entries, err)
	}
	if _, err := os.Stat(filepath.Join(dir, name(gone.Process.Pid))); err == nil {
		t.Error("the group of a server that is gone is there")
	}
}
