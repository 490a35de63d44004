package serving_test

import (
	"strings"
	"testing"

	"github.com/shoalserve/shoal/internal/serving"
)

func TestAnswersAreComparedAsTheSpecSays(t *testing.T) {
	answer := func(body string) serving.Answer {
		return serving.Answer{Response: serving.Response{Format: serving.JSON, Body: []byte(body)}}
	}
	text := func(body string) serving.Answer {
		return serving.Answer{Response: serving.Response{Format: serving.Text, Body: []byte(body)}}
	}
	status := func(n int) serving.Answer { return serving.Answer{Response: serving.Response{Status: n}} }
	fails := func(code serving.Code) serving.Answer { return serving.Answer{Err: serving.Errorf(code, "x")} }
	long, huge := strings.Repeat("The answers begin alike. ", 4)[:80], strings.Repeat("7", 400)
	for i, test := range []struct {
		how  serving.Compare
		a, b serving.Answer
		want string
	}{
		{a: answer(`{"a": [1, "x", null, true]}`), b: answer(` {"a":[1.000001,"x",null,true]}`)},
		{a: answer(`1000000`), b: answer(`1000001`)}, // relative
		{a: answer(`[1]`), b: answer(`[1.1]`), want: "0: 1, and 1.1"},
		{how: serving.Compare{Tolerance: 0.2}, a: answer(`[1]`), b: answer(`[1.1]`)},
		{a: answer(`[1]`), b: answer(`[1, 2]`), want: "1 items, and 2 items"},
		{a: answer(`{"a": 1}`), b: answer(`{"a": 1, "b": null}`), want: "b: nothing, and something"},
		{a: answer(`{"a": 1, "b": 2}`), b: answer(`{"a": 1}`), want: "b: something, and nothing"},
		{a: answer(`{"a": "1"}`), b: answer(`{"a": 1}`), want: `a: "1", and 1`},
		{a: answer(`true`), b: answer(`false`), want: "true, and false"},
		{how: serving.Compare{Ignore: []string{"t", "l.*.id"}}, a: answer(`{"t": 1, "l": [{"id": 1}, {"id": 2}]}`), b: answer(`{"l": [{"id": 3}, {}]}`)},
		{how: serving.Compare{TopK: 2}, a: answer(`[0.1, 0.9, 0.5]`), b: answer(`[0.3, 0.8, 0.4]`)},
		{how: serving.Compare{TopK: 2}, a: answer(`[0.1, 0.9, 0.5]`), b: answer(`[0.6, 0.8, 0.4]`), want: "top 2 [1 2], and [1 0]"},
		{how: serving.Compare{TopK: 1}, a: answer(`[0.5, 0.500001]`), b: answer(`[0.500001, 0.5]`)}, // a tie
		{a: text("a"), b: text("a")},
		{a: text("a"), b: text("bc"), want: "1 bytes and 2 bytes differ"},
		{a: text("1"), b: answer("1")}, // the same bytes
		{a: status(200), b: status(0)},
		{a: status(404), b: status(200), want: "status 404, and status 200"},
		{a: fails(serving.WorkerDied), b: fails(serving.WorkerDied)},
		{a: fails(serving.WorkerDied), b: text("a"), want: "WorkerDied, and an answer"},
		{a: answer(`{"a": "` + long + `x"}`), b: answer(`{"a": "` + long + `x"}`)},
		{a: answer(`{"a": "` + long + `x"}`), b: answer(`{"a": "` + long + `y"}`), want: `a: both begin with "` + long[:39] + `, they differ at character 82`},
		{a: answer(`"` + long + `"`), b: answer(`"` + long + `é"`), want: `both begin with "` + long[:39] + `, they differ at character 82`},
		{a: answer(huge + "1"), b: answer(huge + "2"), want: "both begin with " + huge[:40] + ", they differ at character 401"}, // beyond a float
	} {
		if got := test.how.Answers(test.a, test.b); got.What != test.want {
			t.Errorf("%d: %q, want %q", i, got.What, test.want)
		}
	}
	if d := (serving.Compare{Tolerance: 1}).Answers(answer(`[1, 5]`), answer(`[1.25, 5]`)); d.Largest != 0.25 {
		t.Errorf("the largest difference is %v", d.Largest)
	}
	deep := strings.Repeat("[", 20000) + strings.Repeat("]", 20000) // beyond what the decoder takes
	if d := (serving.Compare{}).Answers(answer(deep), answer(deep)); d.What != "" {
		t.Error(d.What)
	}
}
