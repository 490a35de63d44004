package serving

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// Compare says when two answers to one query are the same.
type Compare struct {
	// Tolerance is how far two numbers may be apart: by so much, or by that
	// part of the larger. Default 1e-5.
	Tolerance float64 `json:"tolerance,omitempty"`
	// TopK compares lists of more than so many numbers by the places of their
	// TopK largest, in order, and not by their values. Default 0: by values.
	TopK int `json:"top_k,omitempty"`
	// Ignore are paths into JSON that are not looked at, such as "took" or
	// "items.*.id", where * is any key or place.
	Ignore []string `json:"ignore,omitempty"`
}

// UnmarshalJSON refuses unknown keys.
func (c *Compare) UnmarshalJSON(raw []byte) error {
	type plain Compare
	var p plain
	if err := strictly(raw, &p); err != nil {
		return err
	}
	*c = Compare(p)
	return nil
}

func (c *Compare) check() error {
	switch {
	case c == nil:
	case c.Tolerance < 0 || math.IsNaN(c.Tolerance) || math.IsInf(c.Tolerance, 0):
		return Errorf(InvalidArgument, "compare: tolerance must not be negative, got %v", c.Tolerance)
	case c.TopK < 0:
		return Errorf(InvalidArgument, "compare: top_k must not be negative, got %d", c.TopK)
	case slices.Contains(c.Ignore, ""):
		return Errorf(InvalidArgument, "compare: ignore: a path is empty")
	}
	return nil
}

// Answer is what came of a query, as far as it is compared.
type Answer struct {
	Err      error
	Response Response
}

// Difference is what tells two answers apart.
type Difference struct {
	// What says in words where they differ; empty if they are the same.
	What string
	// Largest is the largest distance of two numbers that were compared.
	Largest float64
}

// Answers compares two answers to one query: errors by their codes, JSON deeply
// with the tolerance, all else byte by byte.
func (c Compare) Answers(a, b Answer) Difference { return c.answers(a, b, false) }

// answers is Answers; a discreet one shows numbers, but no texts.
func (c Compare) answers(a, b Answer, discreet bool) Difference {
	if a.Err != nil || b.Err != nil {
		if x, y := outcome(a), outcome(b); x != y {
			return Difference{What: unequal("", x, y)}
		}
		return Difference{}
	}
	if x, y := statusOf(a), statusOf(b); x != y {
		return Difference{What: unequal("", "status "+strconv.Itoa(x), "status "+strconv.Itoa(y))}
	}
	x, errX := parse(a.Response)
	y, errY := parse(b.Response)
	if errX != nil || errY != nil { // at least one is no JSON
		if bytes.Equal(a.Response.Body, b.Response.Body) {
			return Difference{}
		}
		what := fmt.Sprintf("%d bytes and %d bytes differ", len(a.Response.Body), len(b.Response.Body))
		if a.Response.Format == Pickle {
			what += ", as pickles, in which no tolerance counts"
		}
		return Difference{What: what}
	}
	d := deep{Compare: c, discreet: discreet}
	if d.Tolerance == 0 {
		d.Tolerance = 1e-5
	}
	d.value(nil, x, y)
	return d.Difference
}

func outcome(a Answer) string {
	if a.Err == nil {
		return "an answer"
	}
	return string(Describe(a.Err).Code)
}

func statusOf(a Answer) int {
	if a.Response.Status == 0 {
		return http.StatusOK
	}
	return a.Response.Status
}

// parse reads an answer in JSON.
func parse(r Response) (v any, err error) {
	if r.Format != JSON && (r.Format != Full || !strings.Contains(r.Header.Get("Content-Type"), "json")) {
		return nil, errors.New("no JSON")
	}
	d := json.NewDecoder(bytes.NewReader(r.Body))
	d.UseNumber()
	if err := d.Decode(&v); err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("more than one value")
	}
	return v, nil
}

// deep compares two JSON values until it finds what tells them apart.
type deep struct {
	Compare
	discreet bool
	Difference
}

// value compares two values at a path; it reports whether they are the same.
func (d *deep) value(path []string, a, b any) bool {
	if d.ignored(path) {
		return true
	}
	switch x := a.(type) {
	case map[string]any:
		if y, ok := b.(map[string]any); ok {
			return d.object(path, x, y)
		}
	case []any:
		if y, ok := b.([]any); ok {
			return d.list(path, x, y)
		}
	case json.Number:
		if y, ok := b.(json.Number); ok {
			return d.number(path, x, y)
		}
	default:
		if a == b {
			return true
		}
	}
	return d.differ(path, a, b)
}

func (d *deep) object(path []string, a, b map[string]any) bool {
	for key, x := range a {
		at := append(slices.Clone(path), key)
		y, ok := b[key]
		if !ok && !d.ignored(at) {
			d.What = unequal(strings.Join(at, "."), "something", "nothing")
			return false
		}
		if ok && !d.value(at, x, y) {
			return false
		}
	}
	for key := range b {
		at := append(slices.Clone(path), key)
		if _, ok := a[key]; !ok && !d.ignored(at) {
			d.What = unequal(strings.Join(at, "."), "nothing", "something")
			return false
		}
	}
	return true
}

func (d *deep) list(path []string, a, b []any) bool {
	if len(a) != len(b) {
		d.What = unequal(strings.Join(path, "."), fmt.Sprintf("%d items", len(a)), fmt.Sprintf("%d items", len(b)))
		return false
	}
	if d.TopK > 0 && len(a) > d.TopK {
		x, y := numbers(a), numbers(b)
		if x != nil && y != nil {
			return d.top(path, x, y)
		}
	}
	for i := range a {
		if !d.value(append(slices.Clone(path), strconv.Itoa(i)), a[i], b[i]) {
			return false
		}
	}
	return true
}

// top compares the places of the largest numbers. Two whose values are within
// the tolerance may change places.
func (d *deep) top(path []string, a, b []float64) bool {
	x, y := largest(a, d.TopK), largest(b, d.TopK)
	for i := range x {
		if x[i] != y[i] && !d.near(a[x[i]], a[y[i]]) {
			d.What = unequal(strings.Join(path, "."), fmt.Sprintf("top %d %v", d.TopK, x), fmt.Sprint(y))
			return false
		}
	}
	return true
}

// largest are the places of the k largest numbers, the largest first.
func largest(of []float64, k int) []int {
	places := make([]int, len(of))
	for i := range places {
		places[i] = i
	}
	slices.SortStableFunc(places, func(i, j int) int {
		switch {
		case of[i] > of[j]:
			return -1
		case of[i] < of[j]:
			return 1
		}
		return 0
	})
	return places[:k]
}

// numbers are a list's, if it holds nothing else; else nil.
func numbers(list []any) []float64 {
	found := make([]float64, len(list))
	for i, v := range list {
		n, ok := v.(json.Number)
		if !ok {
			return nil
		}
		f, err := n.Float64()
		if err != nil {
			return nil
		}
		found[i] = f
	}
	return found
}

func (d *deep) number(path []string, a, b json.Number) bool {
	if a == b {
		return true
	}
	x, errX := a.Float64()
	y, errY := b.Float64()
	if errX != nil || errY != nil { // beyond what a float holds
		return d.differ(path, a, b)
	}
	d.Largest = max(d.Largest, math.Abs(x-y))
	return d.near(x, y) || d.differ(path, a, b)
}

func (d *deep) near(x, y float64) bool {
	return math.Abs(x-y) <= max(d.Tolerance, d.Tolerance*max(math.Abs(x), math.Abs(y)))
}

// differ notes two values that differ: it always says something, since without
// words answers count as the same.
func (d *deep) differ(path []string, a, b any) bool {
	at, x, y := strings.Join(path, "."), short(a), short(b)
	if d.discreet {
		x, y = kindly(a), kindly(b)
	}
	d.What = unequal(at, x, y)
	if x == y && d.discreet {
		d.What = labeled(at, x+", and another")
	} else if x == y { // what tells them apart was cut off
		d.What = labeled(at, fmt.Sprintf("both begin with %s, they differ at character %d", x, 1+common(written(a), written(b))))
	}
	return false
}

func (d *deep) ignored(path []string) bool {
	return len(path) > 0 && slices.ContainsFunc(d.Ignore, func(pattern string) bool {
		steps := strings.Split(pattern, ".")
		return slices.EqualFunc(steps, path, func(step, at string) bool { return step == "*" || step == at })
	})
}

// short shows a value in little room: samples of differences are kept.
func short(v any) string { return fmt.Sprintf("%.40s", written(v)) }

// kindly says what kind of value it is, and shows numbers.
func kindly(v any) string {
	switch v := v.(type) {
	case string:
		return fmt.Sprintf("a text of %d bytes", len(v))
	case []any:
		return fmt.Sprintf("a list of %d", len(v))
	case map[string]any:
		return fmt.Sprintf("an object of %d", len(v))
	}
	return short(v)
}

// written is a value as JSON writes it.
func written(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	return string(text)
}

// common counts the characters with which both texts begin.
func common(a, b string) int {
	x, y := []rune(a), []rune(b)
	n := 0
	for n < min(len(x), len(y)) && x[n] == y[n] {
		n++
	}
	return n
}

// unequal says that two things differ which look different.
func unequal(path, a, b string) string { return labeled(path, fmt.Sprintf("%s, and %s", a, b)) }

func labeled(path, what string) string {
	if path == "" {
		return what
	}
	return fmt.Sprintf("%.80s: %s", path, what)
}
