package config

import (
	"errors"
	"math"
	"os"
	"strings"
	"testing"
)

// FuzzParse checks that a file is either refused, with places that are in it,
// or makes sense as a whole.
func FuzzParse(f *testing.F) {
	example, err := os.ReadFile("../../examples/adder/shoal.yaml")
	if err != nil {
		f.Fatal(err)
	}
	for _, seed := range []string{
		string(example), "", "null", "- 1", "a: 1\na: 2", "http: {max_body: .inf}", "a: &a [*a]", "http: *nope", "---\n---\n",
		good + "endpoints:\n  e: {traffic: {a: 0.5, b: 0.5}, shadow: {b: 1}, example: {json: {x: 1}}}\n",
		"x: &x {python: 'm.py:f'}\nbackends:\n  a: *x\n  b:\n    <<: *x\n", "backends: {a: {python: {file: f, object: o, init_args: [1]}}}",
		"http: {read_timeout: 5 parsecs}", "1: 2", "? [a]\n: b", "\xff", "log: !!binary aGk=", "\"a\\x\": 1",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		file, err := Parse("f", "/", []byte(text))
		if err != nil {
			checkPlaces(t, text, err)
			return
		}
		for name, e := range file.Endpoints {
			sum := 0.0
			for backend, weight := range e.Traffic {
				if _, ok := file.Backends[backend]; !ok {
					t.Errorf("endpoint %q leads to %q, which is not there", name, backend)
				}
				sum += weight
			}
			if math.Abs(sum-1) > 1e-6 {
				t.Errorf("the weights of endpoint %q sum to %v", name, sum)
			}
		}
	})
}

func checkPlaces(t *testing.T, text string, err error) {
	all, ok := errors.AsType[Errors](err)
	if !ok || len(all) == 0 {
		t.Fatalf("error is %#v, want Errors", err)
	}
	lines := strings.Count(text, "\n") + strings.Count(text, "\r") + 1
	for _, e := range all {
		if e.Line < 1 || e.Line > lines+1 || e.Column < 1 || e.Message == "" {
			t.Errorf("a place out of the %d lines, or no words: %v", lines, e)
		}
	}
}
