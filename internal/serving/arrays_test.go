package serving_test

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/shoalserve/shoal/batch"
	"github.com/shoalserve/shoal/internal/serving"
	"github.com/shoalserve/shoal/internal/tensor"
)

// arrayModel answers with the arrays that it was given. Like a worker it writes a
// batch to memory of its own, and uses that again once the batch is completed.
type arrayModel struct {
	signature *tensor.Signature
	running   sync.WaitGroup
	mu        sync.Mutex // one batch at a time
	collation tensor.Collation
	reader    tensor.AnswerReader
	memory    []byte
	layouts   []string // of the batches
}

func (m *arrayModel) Start(context.Context, serving.ReplicaSpec) (serving.Instance[*serving.Call, serving.Response], error) {
	return m, nil
}

func (m *arrayModel) Arrays(method string) *tensor.Signature {
	if method == "plain" {
		return nil
	}
	return m.signature
}

func (m *arrayModel) Run(b *batch.Batch[*serving.Call, serving.Response]) {
	m.running.Go(func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		if err := m.compute(b); err != nil {
			b.Finish(nil, err)
			return
		}
		b.Complete()
		for i := range m.memory {
			m.memory[i] = 0xee
		}
	})
}

func (m *arrayModel) compute(b *batch.Batch[*serving.Call, serving.Response]) error {
	m.collation.Reset()
	for _, q := range b.Queries {
		if q.In.Row() == nil {
			return fmt.Errorf("a call of method %q, which is no row", q.In.Method)
		}
		m.collation.Add(q.In.Row())
	}
	size, err := m.collation.Measure()
	if err != nil {
		return err
	}
	m.memory = slices.Grow(m.memory[:0], size)[:size]
	layout := m.collation.AppendLayout(nil)
	m.layouts = append(m.layouts, string(layout))
	m.collation.Fill(m.memory)
	answers, err := m.reader.Read(layout, m.memory)
	if err != nil {
		return err
	}
	for i, q := range b.Queries {
		q.Out = serving.Response{Item: answers.Item(i)}
	}
	return nil
}

func (m *arrayModel) Batched() bool           { return true }
func (m *arrayModel) PID() int                { return 0 }
func (m *arrayModel) Exited() <-chan struct{} { return nil }
func (m *arrayModel) Err() error              { return nil }
func (m *arrayModel) Stop(context.Context) error {
	m.running.Wait()
	return nil
}

// deployArrays deploys an arrayModel behind the endpoint "arrays".
func deployArrays(t *testing.T, config serving.Config, inputs ...tensor.Input) (*arrayModel, *serving.Endpoint) {
	t.Helper()
	s, err := tensor.NewSignature("", inputs)
	if err != nil {
		t.Fatal(err)
	}
	m, r := &arrayModel{signature: s}, newRegistry(t)
	model := serving.Model[*serving.Call, serving.Response]{Kind: "python", Runtime: m, Key: (*serving.Call).BatchKey}
	if _, err := r.Deploy(t.Context(), "arrays:v1", false, func(ctx context.Context) (serving.Backend, error) {
		return serving.NewCallPool(ctx, "arrays:v1", model, config, serving.Deps{})
	}); err != nil {
		t.Fatal(err)
	}
	endpoint(t, r, "arrays", "arrays:v1")
	e, err := r.Endpoint("arrays")
	if err != nil {
		t.Fatal(err)
	}
	return m, e
}

// compute brings one call through an endpoint.
func compute(e *serving.Endpoint, c *serving.Call) error {
	done := make(chan struct{})
	c.Done = func(*serving.Call) { close(done) }
	if err := e.Submit(c); err != nil {
		return err
	}
	<-done
	return c.Err
}

func web(contentType, target string, body []byte) *serving.Call {
	header := make(http.Header)
	if contentType != "" {
		header.Set("Content-Type", contentType)
	}
	return &serving.Call{Origin: batch.Web, Request: &serving.Request{Method: "POST", Target: target, Header: header, Body: body}}
}

func TestQueriesReachAModelThatTakesArrays(t *testing.T) {
	_, e := deployArrays(t, serving.Config{}, tensor.Input{Name: "x"})
	jsonArgs := func(payload string) *serving.Call {
		return &serving.Call{Args: serving.Args{Head: []byte(`{"encoding":"json"}`), Payload: []byte(payload)}}
	}
	for _, test := range []struct {
		name string
		call *serving.Call
		want string
	}{
		{"an object", web("application/json", "/", []byte(`{"x": [1, 2.5]}`)), `{"x":[1,2.5]}`},
		{"the sole input alone", web("", "/", []byte(`[1, 2]`)), `{"x":[1,2]}`},
		{"a query string", web("", "/arrays?x=41", nil), `{"x":41}`},
		{"base64", web("", "/", []byte(`{"x": {"b64": "AACAPw==", "dtype": "float32"}}`)), `{"x":[1]}`},
		{"data of an API query", jsonArgs(`{"data": 1, "kwargs": {}}`), `{"x":1}`},
		{"a keyword argument of an API query", jsonArgs(`{"data": null, "kwargs": {"x": [true]}}`), `{"x":[true]}`},
	} {
		t.Run(test.name, func(t *testing.T) {
			if err := compute(e, test.call); err != nil || string(test.call.Response.Body) != test.want || test.call.Response.Format != serving.JSON {
				t.Errorf("%s, %v; want %s", test.call.Response.Body, err, test.want)
			}
			if test.call.Row() != nil || !test.call.Response.Item.IsZero() {
				t.Error("the call still has its row or its item")
			}
		})
	}
}

// A query that is none of the model's is refused before it is in anybody's batch.
func TestAQueryThatIsNoArrayHurtsItselfAlone(t *testing.T) {
	m, e := deployArrays(t, serving.Config{}, tensor.Input{Name: "number", Dtype: tensor.Int8}, tensor.Input{Name: "y", Optional: true})
	for _, test := range []struct{ body, error string }{
		{`{"numbr": 1}`, `the query (byte 1): there is no input "numbr"; the model takes number, y (optional); did you mean "number"?`},
		{`{"number": [[1, 2], [3]]}`, `input "number"[1] (byte 22): a list of 1 where the lists before it have 2; lists must be equally long`},
		{`{"number": [1, 300]}`, `input "number"[1] (byte 15): 300 is beyond the range of int8`},
		{`{"number": 1.5}`, `input "number" (byte 11): 1.5 has a fraction or an exponent, but the model takes int8`},
		{`{"number": null}`, `null where a number should be`},
		{`{"number": 1`, `it is not JSON: the end where ',' or '}' should be`},
		{`{"y": 1}`, `input "number": it is missing`},
	} {
		err := compute(e, web("application/json", "/", []byte(test.body)))
		wantCode(t, err, serving.InvalidArgument)
		if err == nil || !strings.Contains(err.Error(), test.error) || !strings.Contains(err.Error(), `"arrays:v1"`) {
			t.Errorf("%s: %v; want %s", test.body, err, test.error)
		}
	}
	call := web("", "/", []byte(`5`))
	call.Method = "a\x00b"
	wantCode(t, compute(e, call), serving.InvalidArgument)
	if len(m.layouts) != 0 {
		t.Errorf("the model was given %q", m.layouts)
	}
	if err := compute(e, web("", "/", []byte(`5`))); err != nil {
		t.Error(err)
	}
}

func TestAMethodThatTakesCallsGetsThem(t *testing.T) {
	_, e := deployArrays(t, serving.Config{}, tensor.Input{Name: "x"})
	call := web("", "/", []byte(`not even JSON`))
	call.Method = "plain"
	if err := compute(e, call); err == nil || !strings.Contains(err.Error(), `a call of method "plain", which is no row`) {
		t.Error(err)
	}
}

// Every worker reads the name as text.
func TestAMethodsNameIsUTF8(t *testing.T) {
	_, e := deployArrays(t, serving.Config{}, tensor.Input{Name: "x"})
	call := web("", "/", []byte(`{"x":1}`))
	call.Method = "\xff"
	err := compute(e, call)
	wantCode(t, err, serving.InvalidArgument)
	if !strings.Contains(err.Error(), `must be UTF-8, not "\xff"`) {
		t.Error(err)
	}
}

func TestWhatPythonPickledIsLeftToPython(t *testing.T) {
	_, e := deployArrays(t, serving.Config{}, tensor.Input{Name: "x"})
	call := &serving.Call{Args: serving.Args{Payload: []byte("\x80\x05.")}}
	if err := compute(e, call); err == nil || !strings.Contains(err.Error(), "which is no row") {
		t.Error(err)
	}
}

func TestAnAnswerIsWrittenAsTheClientAsks(t *testing.T) {
	_, e := deployArrays(t, serving.Config{}, tensor.Input{Name: "x", Dtype: tensor.Float64}, tensor.Input{Name: "y", Optional: true})
	nan := binary.LittleEndian.AppendUint64(nil, math.Float64bits(math.NaN()))
	for _, test := range []struct {
		accept string
		body   []byte
		npy    bool
		code   serving.Code
	}{
		{"", []byte(`{"x":1}`), false, ""},
		{"*/*", []byte(`{"x":1}`), false, ""},
		{"application/x-npy", []byte(`{"x":1}`), true, ""},
		{"text/html, Application/X-NPY; q=0.5", []byte(`{"x":1}`), true, ""},
		{"application/x-npy;q=0, */*", []byte(`{"x":1}`), false, ""},
		{"application/x-npy", nan, true, ""},
		{"application/json", nan, false, serving.Internal},
		{"application/x-npy", []byte(`{"x":1,"y":2}`), false, serving.InvalidArgument},
	} {
		contentType := ""
		body := test.body
		if body[0] != '{' {
			contentType = tensor.Raw
			body = append(body, body...)
		}
		call := web(contentType, "/", body)
		call.Request.Header.Set("Accept", test.accept)
		err := compute(e, call)
		if test.code != "" {
			wantCode(t, err, test.code)
		} else if isNPY := call.Response.Header.Get("Content-Type") == tensor.NPY; err != nil || isNPY != test.npy || isNPY != strings.HasPrefix(string(call.Response.Body), "\x93NUMPY") {
			t.Errorf("Accept: %s: %v %q, %v", test.accept, call.Response.Header, call.Response.Body, err)
		}
	}
}

// Queries that differ in datatype or shape run apart, whatever order they come in.
func TestBatchesAreOfOneShape(t *testing.T) {
	m, e := deployArrays(t, serving.Config{MaxBatchSize: 8, BatchWaitTimeout: 0}, tensor.Input{Name: "x"})
	var wg sync.WaitGroup
	for i := range 60 {
		wg.Go(func() {
			body := []string{`1`, `1.5`, `[1,2]`, `[1,2,3]`, `[[1],[2]]`, `true`}[i%6]
			call := web("", "/", []byte(body))
			if err := compute(e, call); err != nil || string(call.Response.Body) != `{"x":`+body+`}` {
				t.Errorf("%s: %s, %v", body, call.Response.Body, err)
			}
		})
	}
	wg.Wait()
	for _, layout := range m.layouts {
		if strings.Count(layout, `"x"`) != 1 {
			t.Error(layout)
		}
	}
}

// Once a call is done, its caller may do with the body what it likes, and the model's
// memory is used for something else: neither reaches an answer. The race detector
// looks on.
func TestNothingRefersToABodyOrToTheModelsMemoryAfterTheAnswer(t *testing.T) {
	_, e := deployArrays(t, serving.Config{MaxBatchSize: 4}, tensor.Input{Name: "x", Dtype: tensor.Int64})
	var wg sync.WaitGroup
	for caller := range 8 {
		wg.Go(func() {
			var body []byte // used again and again
			for i := range 200 {
				want := []int64{int64(caller), int64(i), int64(caller * i), 7}
				var contentType string
				if body, contentType = inForm(body[:0], i%4, want); body == nil {
					t.Error("no body")
					return
				}
				call := web(contentType, "/", body)
				if i%8 > 3 {
					call.Request.Header.Set("Accept", tensor.NPY)
				}
				err := compute(e, call)
				for j := range body {
					body[j] = 0xdd
				}
				if got := readAnswer(t, call.Response); err != nil || !slices.Equal(got, want) {
					t.Errorf("caller %d, query %d: %v, %v; want %v", caller, i, got, err, want)
					return
				}
			}
		})
	}
	wg.Wait()
}

// inForm writes a list as a body of one of the four kinds.
func inForm(body []byte, form int, list []int64) (_ []byte, contentType string) {
	text, err := json.Marshal(list)
	if err != nil {
		return nil, ""
	}
	raw, err := binary.Append(nil, binary.LittleEndian, list)
	if err != nil {
		return nil, ""
	}
	switch form {
	case 0:
		return append(body, text...), "application/json"
	case 1:
		return append(body, raw...), tensor.Raw
	case 2:
		b64, err := json.Marshal(map[string]any{"x": map[string]any{"b64": raw, "shape": []int{len(list)}}})
		if err != nil {
			return nil, ""
		}
		return append(body, b64...), "application/json"
	}
	header := fmt.Sprintf("{'descr': '<i8', 'fortran_order': False, 'shape': (%d,), }", len(list))
	body = append(body, "\x93NUMPY\x01\x00"...)
	body = binary.LittleEndian.AppendUint16(body, uint16(len(header)))
	return append(append(body, header...), raw...), tensor.NPY
}

func readAnswer(t *testing.T, r serving.Response) []int64 {
	if r.Format == serving.JSON {
		var object struct{ X []int64 }
		if err := json.Unmarshal(r.Body, &object); err != nil {
			t.Error(err)
		}
		return object.X
	}
	list := make([]int64, 4)
	if _, err := binary.Decode(r.Body[max(0, len(r.Body)-32):], binary.LittleEndian, list); err != nil {
		t.Error(err)
	}
	return list
}

// The model's memory is used again while large answers are still being written.
func TestLargeAnswersAreWrittenAside(t *testing.T) {
	_, e := deployArrays(t, serving.Config{MaxBatchSize: 4}, tensor.Input{Name: "x", Dtype: tensor.Int32}, tensor.Input{Name: "y", Optional: true})
	var wg sync.WaitGroup
	for caller := range 16 {
		wg.Go(func() {
			body := `{"x":[` + strings.Repeat(fmt.Sprintf("%d,", caller), 9_999) + `1]`
			if caller%2 == 0 {
				body += `,"y":2.5`
			}
			body += "}"
			call := web("", "/", []byte(body))
			if err := compute(e, call); err != nil || string(call.Response.Body) != body {
				t.Errorf("caller %d: %.100s, %v", caller, call.Response.Body, err)
			}
		})
	}
	wg.Wait()
}

// A body is looked at once: by the check of the front where the model would get it as
// it is, and where nothing was wrong with it for the decoder, not at all.
func TestABodyIsCheckedUnlessItIsDecoded(t *testing.T) {
	_, e := deployArrays(t, serving.Config{}, tensor.Input{Name: "x"})
	for _, test := range []struct {
		method, body string
		checked      bool
	}{{"", `[1]`, false}, {"", `[1,]`, true}, {"", ``, true}, {"plain", `[1]`, true}} {
		bad := errors.New("the check says no")
		checked := false
		call := web("application/json", "/?x=1", []byte(test.body))
		call.Method = test.method
		call.Request.Check = func(*serving.Request) error { checked = true; return bad }
		if err := compute(e, call); checked != test.checked || errors.Is(err, bad) != checked {
			t.Errorf("method %q, body %s: checked %v, %v", test.method, test.body, checked, err)
		}
	}
}

func TestARefusedCallMayBeSubmittedAgain(t *testing.T) {
	_, e := deployArrays(t, serving.Config{MaxQueued: 1}, tensor.Input{Name: "x"})
	call := web("", "/", []byte(`[]`))
	wantCode(t, compute(e, call), serving.InvalidArgument)
	call.Request.Body = []byte(`[1]`)
	if err := compute(e, call); err != nil || string(call.Response.Body) != `{"x":[1]}` {
		t.Errorf("%s, %v", call.Response.Body, err)
	}
}
