package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/shoalserve/shoal/internal/runtime/python"
	"github.com/shoalserve/shoal/internal/serving"
)

func TestAFileSaysItAll(t *testing.T) {
	off := false
	got, err := Parse("shoal.yaml", "/srv", []byte(`
http: {address: 0.0.0.0:80, max_body: 1MiB, max_header: 8192, read_timeout: 1.5, idle_timeout: 1m, server_timing: false, front: net/http}
admin: {address: unix:run/admin.sock, token_file: token}
log: {format: json, level: warn}
python: {interpreter: env/bin/python, sys_path: [lib, /opt/lib]}
backends:
  adder:v1:
    python: app.py:batch_adder
    config: {max_batch_size: 4, batch_wait_timeout: 2ms, env: {OMP_NUM_THREADS: "1"}}
  adder:v2:
    python: {file: /srv2/app.py, object: models.Adder, init_args: [1, two], init_kwargs: {deep: {a: null}}}
    interpreter: pypy3
    config:
      # all commented out
endpoints:
  adder:
    route: /adder
    methods: [get, POST]
    traffic: {adder:v1: 0.9, adder:v2: 0.1}
    example: {query: {number: 1}}
  other: {backend: adder:v1, shadow: {adder:v2: 0.5}}
`))
	if err != nil {
		t.Fatal(err)
	}
	want := &File{
		HTTP: HTTP{
			Address: "0.0.0.0:80", MaxBody: 1 << 20, MaxHeader: 8192, ReadTimeout: serving.Duration(1500 * time.Millisecond),
			IdleTimeout: serving.Duration(time.Minute), ServerTiming: &off, Front: "net/http",
		},
		Admin:  Admin{Address: "unix:/srv/run/admin.sock", TokenFile: "/srv/token"},
		Log:    Log{Format: "json", Level: slog.LevelWarn},
		Python: Python{Interpreter: "/srv/env/bin/python", SysPath: []string{"/srv/lib", "/opt/lib"}},
		Backends: map[string]Backend{
			"adder:v1": {
				Spec: python.Spec{
					Source:  python.Source{Kind: "file", Path: "/srv/app.py", Object: "batch_adder"},
					SysPath: []string{"/srv/lib", "/opt/lib"},
				},
				Config: serving.Config{
					MaxBatchSize: 4, BatchWaitTimeout: serving.Duration(2 * time.Millisecond),
					Env: map[string]string{"OMP_NUM_THREADS": "1"},
				},
			},
			"adder:v2": {
				Spec: python.Spec{
					Source: python.Source{
						Kind: "file", Path: "/srv2/app.py", Object: "models.Adder",
						InitArgs:   []json.RawMessage{json.RawMessage(`1`), json.RawMessage(`"two"`)},
						InitKwargs: map[string]json.RawMessage{"deep": json.RawMessage(`{"a":null}`)},
					},
					Interpreter: "pypy3", SysPath: []string{"/srv/lib", "/opt/lib"},
				},
			},
		},
		Endpoints: map[string]Endpoint{
			"adder": {
				Route: "/adder", Methods: []string{"get", "POST"}, Traffic: map[string]float64{"adder:v1": 0.9, "adder:v2": 0.1},
				Example: &serving.Example{Query: map[string]any{"number": 1.0}},
			},
			"other": {Traffic: map[string]float64{"adder:v1": 1}, Shadow: map[string]float64{"adder:v2": 0.5}},
		},
	}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreUnexported(File{})); diff != "" {
		t.Errorf("read differently (-want +got):\n%s", diff)
	}
}

func TestAnEmptyFileIsNone(t *testing.T) {
	for name, text := range map[string]string{
		"no bytes": "", "a line": "\n", "a comment": "# later\n", "null": "null\n", "a tilde": "~\n", "a document mark": "---\n", "two marks": "---\n...\n",
		"a mark of the byte order": "\ufeff",
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Parse("f", "/", []byte(text))
			all, ok := errors.AsType[Errors](err)
			if !ok || len(all) != 1 || !strings.Contains(all[0].Message, `the file is empty; to serve nothing on purpose, write "backends: {}"`) {
				t.Errorf("error is %v", err)
			}
		})
	}
}

func TestAFileTellsNothingFromNoWord(t *testing.T) {
	for text, spoken := range map[string]bool{
		"backends: {}\nendpoints: {}\n": true, "http:\nbackends:\nendpoints:\n": false, "http: {}\n": false, "{}": false,
	} {
		file, err := Parse("f", "/", []byte(text))
		if err != nil {
			t.Errorf("%q: %v", text, err)
		} else if got := file.Backends != nil && file.Endpoints != nil; got != spoken || len(file.Backends)+len(file.Endpoints) > 0 {
			t.Errorf("%q is read as %v", text, file)
		}
	}
}

func TestAnchorsAndMergesWork(t *testing.T) {
	file, err := Parse("f", "/", []byte(`
backends:
  a: {python: m.py:f, config: &shared {max_batch_size: 8, num_replicas: 2}}
  b: {python: m.py:f, config: {<<: *shared, num_replicas: 3}}
  c: {python: m.py:f, config: *shared}
`))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]serving.Config{
		"a": {MaxBatchSize: 8, NumReplicas: 2}, "b": {MaxBatchSize: 8, NumReplicas: 3}, "c": {MaxBatchSize: 8, NumReplicas: 2},
	} {
		if diff := cmp.Diff(want, file.Backends[name].Config); diff != "" {
			t.Errorf("config of %s (-want +got):\n%s", name, diff)
		}
	}
}

func TestAliasesOfAliasesDoNotFillTheMemory(t *testing.T) {
	text := "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
	for i := range 9 {
		text += fmt.Sprintf("a%d: &a%d [%s*a%d]\n", i+1, i+1, strings.Repeat(fmt.Sprintf("*a%d, ", i), 9), i)
	}
	if _, err := Parse("f", "/", []byte(text)); err == nil || !strings.Contains(err.Error(), "aliases of aliases") {
		t.Errorf("error is %.200v", err)
	}
}

func TestVariablesAreNotExpanded(t *testing.T) {
	t.Setenv("HOST", "example.org")
	file, err := Parse("f", "/", []byte("http: {address: '${HOST}:80'}\n"))
	if err != nil || file.HTTP.Address != "${HOST}:80" {
		t.Errorf("read as %v, %v", file, err)
	}
}

// good is the head of files whose endpoints are wrong.
const good = "backends: {a: {python: m.py:f}, b: {python: m.py:g}}\n"

func TestWhatIsWrongIsSaidWithItsPlace(t *testing.T) {
	for name, test := range map[string]struct {
		text string
		want []string
	}{
		"a tab as indentation": {"http:\n\taddress: x\n", []string{`2:1: found character that cannot start any token while scanning for the next token`}},
		"an open bracket":      {"backends: [\n", []string{`2:1: did not find expected node content while parsing a flow node`}},
		"a key twice":          {"log:\n  level: info\n  level: warn\n", []string{`3:3: the key "level" stands here twice, first in line 2`}},
		"an unknown alias":     {"http: *nope\n", []string{`1:7: there is no such anchor; a text that begins with * must be in quotes`}},
		"keys twice, and more": {"log: {level: info, level: warn}\nhttp: {}\nlog: {}\nadmin: .nan\n", []string{
			`1:20: the key "level" stands here twice, first in line 1`, `3:1: the key "log" stands here twice, first in line 1`, `4:8: a number must be finite`,
		}},
		"an anchor in itself":    {"backends: &a {x: *a}\n", []string{`1:18: the anchor "a" contains itself`}},
		"a key of no text":       {"[a]: 1\n", []string{`1:1: a key must be a text`}},
		"a merged text":          {"log:\n  <<: x\n", []string{`2:7: only a mapping can be merged`}},
		"no UTF-8":               {"a: \xff\n", []string{`1:1: invalid leading UTF-8 octet (value: 255)`}},
		"two documents":          {"---\nlog: {level: info}\n---\nhttp: {}\n", []string{`3:1: a config file holds one document`}},
		"a list":                 {"- 1\n", []string{`1:1: a config file is a mapping of sections, such as "backends:"`}},
		"a text":                 {"hello\n", []string{`1:1: a config file is a mapping of sections, such as "backends:"`}},
		"no finite number":       {"http: {max_body: .inf}\n", []string{`1:18: a number must be finite`}},
		"an empty auth":          {"http:\nauth:\n#  keys: {a: {file: a}}\n", []string{`2:1: auth: names no credential; give keys, jwt or certificates, or leave the section out to let everybody in`}},
		"an auth of null":        {"auth: null\ntls: ~\n", []string{`1:1: auth: names no credential; give keys, jwt or certificates, or leave the section out to let everybody in`, `2:1: tls: names no certificate; give cert and key, or leave the section out to serve in the clear`}},
		"an auth merged":         {"<<: {auth: }\n", []string{`1:1: auth: names no credential; give keys, jwt or certificates, or leave the section out to let everybody in`}},
		"an empty audit":         {"http:\naudit:\n", []string{`2:1: audit: names no file; give file, or leave the section out to have changes in the server's log`}},
		"an audit of nothing":    {"audit: {}\n", []string{`1:1: audit lacks the key "file"`}},
		"an audit in no file":    {"audit: {file: ''}\n", []string{`1:15: file must not be empty; leave the section out to have changes in the server's log`}},
		"a key for no endpoint":  {"auth: {keys: {a: {scopes: [query], file: a, endpoints: []}}}\n", []string{`1:56: endpoints must not be empty`}},
		"an auth of no keys":     {"auth: {keys: }\n", []string{`1:14: keys must be a mapping, not empty`}},
		"a value unlike its tag": {"http: {max_body: !!int hunter2}\n", []string{`1:18: the value is not of the kind that its tag says`}},
		"an unknown section":     {"backend:\n  a: 1\n", []string{`1:1: unknown key "backend"; did you mean "backends"?`}},
		"an unknown key":         {"http:\n  adress: x\n", []string{`2:3: unknown key "adress"; did you mean "address"?`}},
		"a key like no other":    {"http: {zzzzzzzzzzzz: 1}\n", []string{`1:8: unknown key "zzzzzzzzzzzz"`}},
		"an unknown config key":  {"backends:\n  a:\n    python: m.py:f\n    config: {max_batch: 1}\n", []string{`4:14: unknown key "max_batch"; did you mean "max_batch_size"?`}},
		"a level of no log":      {"log: {level: inf}\n", []string{`1:14: level must be one of debug, info, warn, error, not "inf"; did you mean "info"?`}},
		"a text for a number":    {"backends:\n  a: {python: m.py:f, config: {max_batch_size: four}}\n", []string{`2:48: max_batch_size must be a whole number, not a text`}},
		"a number below":         {"backends:\n  a: {python: m.py:f, config: {num_replicas: 0}}\n", []string{`2:46: num_replicas must be at least 1, not 0`}},
		"a number for a text":    {"backends:\n  a: {python: m.py:f, config: {env: {N: 1}}}\n", []string{`2:41: N must be a text, not a number; put it in quotes`}},
		"a mapping for a list":   {"python: {sys_path: {a: 1}}\n", []string{`1:20: sys_path must be a list, not a mapping`}},
		"an entry of a list":     {"python: {sys_path: [a, 1]}\n", []string{`1:24: sys_path[1] must be a text, not a number; put it in quotes`}},
		"a bad duration":         {"http: {read_timeout: 5 parsecs}\n", []string{`1:22: read_timeout: "5 parsecs" is not a duration; write it with a unit, such as "2ms" or "1.5s"`}},
		"a duration below zero":  {"http: {read_timeout: -5s}\n", []string{`1:22: read_timeout must be more than 0`}},
		"a bad config duration":  {"backends:\n  a: {python: m.py:f, config: {timeout: soon}}\n", []string{`2:41: timeout: "soon" is not a duration; write it with a unit, such as "2ms" or "1.5s"`}},
		"a timeout of nothing":   {"backends:\n  a: {python: m.py:f, config: {timeout: 0}}\n", []string{`2:41: timeout must be more than 0, got 0s`}},
		"a bad size":             {"http: {max_body: 12 parsecs}\n", []string{`1:18: max_body: "12 parsecs" is not a size; write it as "256MiB" or "1GB"`}},
		"a size of nothing":      {"http: {max_body: 0}\n", []string{`1:18: max_body must be more than 0`}},
		"no port":                {"http: {address: localhost}\n", []string{`1:17: address must be host:port, such as "127.0.0.1:8000", not "localhost"`}},
		"no kind of admin":       {"admin: {address: localhost:1}\n", []string{`1:18: address must be "unix:/path", "http://host:port" or "https://host:port", not "localhost:1"`}},
		"a backend of nothing":   {"backends:\n  a: {}\n", []string{`2:3: backend "a" lacks the key "python"`}},
		"a backend without name": {"backends:\n  '': {python: m.py:f}\n", []string{`2:3: a backend needs a name`}},
		"no object in a file":    {"backends: {a: {python: m.py}}\n", []string{`1:24: python must be "FILE.py:NAME", or a mapping with file, object and, for a class, init_args and init_kwargs`}},
		"a wrong python key":     {"backends:\n  a: {python: {file: m.py, object: A, init_arg: [1]}}\n", []string{`2:39: unknown key "init_arg"; did you mean "init_args"?`}},
		"no object at all":       {"backends:\n  a: {python: {file: m.py}}\n", []string{`2:7: python lacks the key "object"`}},
		"an endpoint for none":   {good + "endpoints:\n  e: {route: /e}\n", []string{`3:3: endpoint "e" needs either backend or traffic`}},
		"an endpoint for two":    {good + "endpoints:\n  e: {backend: a, traffic: {a: 1}}\n", []string{`3:3: endpoint "e" has both backend and traffic; give one of them`}},
		"an endpoint of text":    {good + "endpoints:\n  e: a\n", []string{`3:6: endpoint "e" must be a mapping, not a text`}},
		"a canary of nobody":     {good + "endpoints:\n  e: {backend: a, canary: {backend: nobody}}\n", []string{`3:37: backend "nobody" is not in this file`}},
		"a canary in traffic":    {good + "endpoints:\n  e: {backend: a, canary: {backend: a}}\n", []string{`3:37: backend "a" is in the traffic already; the canary takes it over from others`}},
		"a canary that shrinks":  {"backends: {a: {python: a.py:a}, b: {python: a.py:b}}\nendpoints:\n  e: {backend: a, canary: {backend: b, steps: [0.5, 0.1]}}\n", []string{`3:19: canary: steps must grow from more than 0 to 1, got [0.5 0.1]`}},
		"traffic to nobody":      {good + "endpoints:\n  e: {traffic: {}}\n", []string{`3:16: traffic must not be empty`}},
		"no such backend":        {good + "endpoints:\n  e: {backend: c}\n", []string{`3:16: backend "c" is not in this file; did you mean "a"?`}},
		"no such traffic":        {good + "endpoints:\n  e:\n    traffic:\n      a: 0.5\n      nobody: 0.5\n", []string{`6:7: backend "nobody" is not in this file`}},
		"no such shadow":         {good + "endpoints:\n  e: {backend: a, shadow: {nobody: 1}}\n", []string{`3:28: backend "nobody" is not in this file`}},
		"too little traffic":     {good + "endpoints:\n  e: {traffic: {a: 0.5, b: 0.4}}\n", []string{`3:7: the weights sum to 0.9; they must sum to 1`}},
		"a weight over one":      {good + "endpoints:\n  e: {shadow: {a: 2}, backend: b}\n", []string{`3:19: a must be at most 1, not 2`}},
		"a route twice":          {good + "endpoints:\n  e: {backend: a, route: /r}\n  f: {backend: a, route: /r}\n", []string{`4:26: route "/r" belongs to endpoint "e" already`}},
		"a route without slash":  {good + "endpoints:\n  e: {backend: a, route: r}\n", []string{`3:26: route must begin with "/": "/r"`}},
		"a reserved route":       {good + "endpoints:\n  e: {backend: a, route: /metrics}\n", []string{`3:26: route "/metrics" is reserved for the server itself`}},
		"an unknown method":      {good + "endpoints:\n  e: {backend: a, route: /r, methods: [GETT]}\n", []string{`3:39: method "GETT" is none of GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS`}},
		"all at once, in order": {
			"log: {level: 1}\nhttp:\n  adress: x\n  max_body: []\nendpoints:\n  e: {rout: /e, backend: a}\n",
			[]string{
				`1:14: level must be one of debug, info, warn, error, not "1"`,
				`3:3: unknown key "adress"; did you mean "address"?`,
				`4:13: max_body must be a whole number or a text, not a list`,
				`6:7: unknown key "rout"; did you mean "route"?`,
			},
		},
		"all that makes no sense at once": {
			good + "http: {read_timeout: soon, max_header: 0}\nendpoints:\n  e: {backend: c, route: /e}\n  f: {backend: d, route: /e}\n",
			[]string{
				`2:22: read_timeout: "soon" is not a duration; write it with a unit, such as "2ms" or "1.5s"`,
				`2:40: max_header must be more than 0`,
				`4:16: backend "c" is not in this file; did you mean "a"?`,
				`5:16: backend "d" is not in this file; did you mean "a"?`,
				`5:26: route "/e" belongs to endpoint "e" already`,
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Parse("f.yaml", "/", []byte(test.text))
			all, ok := errors.AsType[Errors](err)
			if !ok {
				t.Fatalf("error is %v, want Errors", err)
			}
			var want strings.Builder
			for _, line := range test.want {
				want.WriteString("f.yaml:" + line + "\n")
			}
			if diff := cmp.Diff(want.String(), all.Error()+"\n"); diff != "" {
				t.Errorf("errors (-want +got):\n%s", diff)
			}
		})
	}
}

func TestAFileIsReadFromItsOwnDirectory(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "shoal.yaml")
	if err := os.WriteFile(path, []byte("backends: {a: {python: lib/m.py:f}}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	file, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := file.Backends["a"].Spec.Source.Path; got != filepath.Join(dir, "lib", "m.py") {
		t.Errorf("path is %s", got)
	}
	if _, err := Load(filepath.Join(dir, "absent.yaml")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error is %v", err)
	}
}
