package python

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/shoalserve/shoal/batch"
	"github.com/shoalserve/shoal/internal/serving"
	"github.com/shoalserve/shoal/internal/tensor"
)

// withNumPy is a Python that has NumPy: that of make setup, else the machine's.
var withNumPy = sync.OnceValue(func() string {
	own, _ := filepath.Abs("../../../.venv/bin/python")
	for _, python := range []string{own, "python3"} {
		if exec.Command(python, "-c", "import numpy").Run() == nil {
			return python
		}
	}
	return ""
})

// deployArrays starts a backend of testdata/arrays.py.
func deployArrays(t testing.TB, object string, config serving.Config) serving.Backend {
	t.Helper()
	python := withNumPy()
	if python == "" {
		t.Skip("no Python with NumPy; make setup installs one")
	}
	sdk, err := filepath.Abs("../../../python")
	if err != nil {
		t.Fatal(err)
	}
	spec := Spec{Source: Source{Kind: "file", Path: "testdata/arrays.py", Object: object}}
	b, err := NewDeployer(Options{SDKDir: sdk, Interpreter: python}).Backend(t.Context(), "model:v1", spec, config)
	if err != nil {
		t.Fatalf("deploying %s: %v", object, err)
	}
	t.Cleanup(func() {
		if err := b.Close(t.Context()); err != nil && t.Context().Err() == nil {
			t.Errorf("closing the backend: %v", err)
		}
	})
	return b
}

func post(text string) *serving.Call {
	c := web("/")
	c.Request.Method, c.Request.Body = "POST", []byte(text)
	return c
}

// postBytes is a query with one uint8 array, in .npy both ways.
func postBytes(data []byte) *serving.Call {
	c := post(npyHeader(len(data)) + string(data))
	c.Request.Header = map[string][]string{"Content-Type": {tensor.NPY}, "Accept": {tensor.NPY}}
	return c
}

func npyHeader(n int) string {
	text := fmt.Sprintf("{'descr': '|u1', 'fortran_order': False, 'shape': (%d,), }", n)
	text += strings.Repeat(" ", 117-len(text)) + "\n"
	return "\x93NUMPY\x01\x00" + string([]byte{byte(len(text)), 0}) + text
}

// answerBytes is the array that a query in .npy was answered with.
func answerBytes(t testing.TB, c *serving.Call) []byte {
	t.Helper()
	if c.Err != nil {
		t.Fatal(c.Err)
	}
	_, data, ok := bytes.Cut(c.Response.Body, []byte("}"))
	if !ok || !bytes.HasPrefix(c.Response.Body, []byte("\x93NUMPY")) {
		t.Fatalf("the answer is no .npy: %.100q", c.Response.Body)
	}
	return data[bytes.IndexByte(data, '\n')+1:]
}

func TestArraysOfWebQueriesShareABatch(t *testing.T) {
	b := deployArrays(t, "plus", serving.Config{})
	for query, want := range map[string]string{
		`{"x":[1,2]}`:               "[2,3]",
		`{"x":[[1.5],[2]]}`:         "[[2.5],[3]]",
		`41`:                        "42",
		`{"x":[1,2],"y":[10,20]}`:   "[11,22]",
		`{"x":0.5,"y":0.25}`:        "0.75",
		`{"x":9007199254740993}`:    "9007199254740994",
		`{"x":[true,false],"y":1}`:  "[2,1]",
		`{"x":3,"y":-9000000000.0}`: "-8999999997",
	} {
		if c := submit(t, b, post(query))(); c.Err != nil || string(c.Response.Body) != want {
			t.Errorf("%s: got %s, %v; want %s", query, c.Response.Body, c.Err, want)
		}
	}
	var waits []func() *serving.Call
	for i := range 200 {
		waits = append(waits, submit(t, b, post(fmt.Sprintf(`{"x":[%d,%d]}`, i, -i))))
	}
	for i, wait := range waits {
		if c := wait(); c.Err != nil || string(c.Response.Body) != fmt.Sprintf("[%d,%d]", i+1, 1-i) {
			t.Errorf("query %d: got %s, %v", i, c.Response.Body, c.Err)
		}
	}
}

func TestAHandlesJSONQueryReachesArrays(t *testing.T) {
	b := deployArrays(t, "plus", serving.Config{})
	if c := submit(t, b, api(`{"x":[1,2],"y":[3,4]}`))(); c.Err != nil || string(c.Response.Body) != "[4,6]" {
		t.Errorf("got %s, %v", c.Response.Body, c.Err)
	}
}

func TestRequestsComeAlongWhereTheFunctionTakesThem(t *testing.T) {
	b := deployArrays(t, "with_requests", serving.Config{})
	for _, size := range []int{2, 100_000} {
		c := post(`{"x":[` + strings.Repeat("1,", size-1) + `1]}`)
		c.Request.Header = map[string][]string{"X-Thing": {"thing"}}
		want := fmt.Sprintf("thing float32 %d.0", size)
		if submit(t, b, c)(); c.Err != nil || string(c.Response.Body) != want {
			t.Errorf("%d numbers: got %s, %v; want %s", size, c.Response.Body, c.Err, want)
		}
	}
}

func TestPaddedArraysComeWithMaskAndLengths(t *testing.T) {
	b := deployArrays(t, "Padded", serving.Config{MaxBatchSize: 3, BatchWaitTimeout: serving.Duration(1e9)})
	waits := []func() *serving.Call{
		submit(t, b, post(`{"x":[1,2,3]}`)), submit(t, b, post(`{"x":[6]}`)), submit(t, b, post(`{"x":[7,8,9,10,11]}`)),
	}
	for i, want := range []string{
		`{"sum":6,"length":3,"padded":5}`, `{"sum":6,"length":1,"padded":5}`, `{"sum":45,"length":5,"padded":5}`,
	} {
		if c := waits[i](); c.Err != nil || string(c.Response.Body) != want {
			t.Errorf("query %d: got %s, %v; want %s", i, c.Response.Body, c.Err, want)
		}
	}
}

func TestBucketsSettleTheShape(t *testing.T) {
	b := deployArrays(t, "Padded", serving.Config{})
	for query, want := range map[string]string{`[1]`: "[1,4]", `[1,2,3,4]`: "[1,4]", `[1,2,3,4,5]`: "[1,8]"} {
		c := post(query)
		c.Method = "shape"
		if submit(t, b, c)(); c.Err != nil || string(c.Response.Body) != want {
			t.Errorf("%s: got %s, %v; want %s", query, c.Response.Body, c.Err, want)
		}
	}
}

func TestAWrongNumberOfArrayAnswersNamesBackendExpectedAndGot(t *testing.T) {
	b := deployArrays(t, "wrong_count", serving.Config{})
	c := submit(t, b, post("[1,2]"))()
	if count, ok := errors.AsType[*batch.CountError](c.Err); !ok || *count != (batch.CountError{Name: "model:v1", Expected: 1, Got: 0}) {
		t.Errorf("got %v", c.Err)
	}
}

func TestLargeArraysTravelBothWays(t *testing.T) {
	b := deployArrays(t, "same", serving.Config{MaxBatchSize: 8})
	for range 3 { // the first answer is not expected to be large, the others are
		var waits []func() *serving.Call
		for i := range 20 {
			waits = append(waits, submit(t, b, postBytes(bytes.Repeat([]byte{byte(i)}, 1<<20))))
		}
		for i, wait := range waits {
			if got := answerBytes(t, wait()); !bytes.Equal(got, bytes.Repeat([]byte{byte(i)}, 1<<20)) {
				t.Errorf("query %d: got %d bytes, %v…", i, len(got), got[:min(8, len(got))])
			}
		}
	}
}

func TestAnArrayIsTheModelsOwnAndNotACopy(t *testing.T) {
	b := deployArrays(t, "memory", serving.Config{})
	for _, size := range []int{10, 1 << 20} {
		c := submit(t, b, postBytes(make([]byte, size)))()
		if want := `{"own":false,"writeable":true,"base":true}`; c.Err != nil || string(c.Response.Body) != want {
			t.Errorf("%d bytes: got %s, %v", size, c.Response.Body, c.Err)
		}
	}
}

func TestAnArrayThatTheModelKeptNeverChanges(t *testing.T) {
	b := deployArrays(t, "Keeper", serving.Config{MaxBatchSize: 2})
	for round := range 3 {
		for i := range 20 {
			c := postBytes(bytes.Repeat([]byte{byte(round*20 + i)}, 100_000))
			c.Method = "keep"
			if got := answerBytes(t, submit(t, b, c)()); !bytes.Equal(got, bytes.Repeat([]byte{byte(round*20 + i + 1)}, 4)) {
				t.Fatalf("round %d, query %d: got %v", round, i, got)
			}
		}
		c := postBytes(make([]byte, 100_000))
		c.Method = "forget"
		if submit(t, b, c)(); c.Err != nil || string(c.Response.Body) != "0" {
			t.Errorf("round %d: kept arrays that changed: %s, %v", round, c.Response.Body, c.Err)
		}
	}
}

func TestAWorkerThatDiesWithSharedMemoryIsReplaced(t *testing.T) {
	b := deployArrays(t, "dies", serving.Config{})
	mapped := mappings(t)
	for range 2 { // a third would be a crash loop
		c := submit(t, b, postBytes(make([]byte, 1<<20)))()
		if serving.Describe(c.Err).Code != serving.WorkerDied {
			t.Errorf("got %v", c.Err)
		}
	}
	if err := b.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if now := mappings(t); now != mapped-1 {
		t.Errorf("%d mappings of shared memory, %d when one worker ran", now, mapped)
	}
}

// mappings is the number of this process's mappings that are shared with workers.
func mappings(t *testing.T) int {
	t.Helper()
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Skip(err)
	}
	return strings.Count(string(maps), "memfd:shoal")
}

func TestAnAnswerThatFindsNoRoomTakesTheSocket(t *testing.T) {
	b := deployArrays(t, "grow", serving.Config{})
	for _, size := range []int{1, 3, 30} {
		if got := answerBytes(t, submit(t, b, postBytes(bytes.Repeat([]byte{7}, size)))()); !bytes.Equal(got, bytes.Repeat([]byte{7}, 100_000*size)) {
			t.Errorf("%d bytes came back as %d", size, len(got))
		}
	}
}

// TestArraysStayTheirOwnersUnderLoad mixes sizes, replicas, batches sent ahead and
// called back, arrays that are kept, and workers that are killed.
func TestArraysStayTheirOwnersUnderLoad(t *testing.T) {
	for name, config := range map[string]serving.Config{
		"two replicas":            {MaxBatchSize: 4, NumReplicas: 2},
		"two batches at a time":   {MaxBatchSize: 4, MaxConcurrentBatches: 2},
		"workers that are killed": {MaxBatchSize: 4, NumReplicas: 2},
	} {
		t.Run(name, func(t *testing.T) {
			b := deployArrays(t, "Stirrer", config)
			sizes := []int{8, 30_000, 100_000, 300_000}
			var waits []func() *serving.Call
			for i := range 300 {
				waits = append(waits, submit(t, b, postBytes(bytes.Repeat([]byte{byte(i)}, sizes[i*7%len(sizes)]))))
				if name == "workers that are killed" && i%100 == 50 {
					if pid := b.Status().Replicas[i%2].PID; pid > 0 { // 0 while it is started again
						_ = syscall.Kill(pid, syscall.SIGKILL) // it may be dead already
					}
				}
			}
			for i, wait := range waits {
				c := wait()
				if c.Err != nil && name == "workers that are killed" && serving.Describe(c.Err).Code == serving.WorkerDied {
					continue
				}
				if got := answerBytes(t, c); !bytes.Equal(got, bytes.Repeat([]byte{byte(i + 1)}, sizes[i*7%len(sizes)])) {
					t.Fatalf("query %d got %d bytes, %v…", i, len(got), got[:8])
				}
			}
		})
	}
}
