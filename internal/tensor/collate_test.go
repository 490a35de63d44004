package tensor

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// Whatever rows a batch has, each comes back out of the blocks as it went in, and no
// two queries of different datatypes or shapes have the same key.
func TestABatchHoldsEachRowUnchanged(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		inputs := rapid.SliceOfNDistinct(rapid.Custom(anyInput), 1, 4, func(in Input) string { return in.Name }).Draw(t, "inputs")
		s, err := NewSignature("predict", inputs)
		if err != nil {
			t.Skip(err)
		}
		batches := make(map[string][]sent)
		for range rapid.IntRange(1, 12).Draw(t, "queries") {
			q := drawQuery(t, inputs)
			if len(q.items) == 0 {
				continue
			}
			row, err := s.DecodeRequest("", "/", q.body)
			if err != nil {
				t.Fatalf("%s: %v", q.body, err)
			}
			q.row = row
			batches[row.Key()] = append(batches[row.Key()], q)
		}
		for key, batch := range batches {
			if !strings.HasPrefix(key, "\x00predict\x00") {
				t.Fatalf("key %q", key)
			}
			checkBatch(t, batch)
		}
	})
}

// sent is a query and what it brought.
type sent struct {
	body  []byte
	items map[string]any // by input, as encoding/json would read it
	row   *Row
}

func anyInput(t *rapid.T) Input {
	in := Input{
		Name:     rapid.SampledFrom([]string{"x", "y", "z", "a \"b\"", "é"}).Draw(t, "name"),
		Dtype:    rapid.SampledFrom([]Dtype{0, Int8, Int64, Uint16, Float32, Float64, Float16}).Draw(t, "dtype"),
		Optional: rapid.Bool().Draw(t, "optional"),
	}
	switch rapid.IntRange(0, 2).Draw(t, "pad") {
	case 0:
		in.Pad = &Pad{}
	case 1:
		in.Pad = &Pad{Buckets: []int{2, 4}}
	}
	if in.Pad != nil {
		in.PadValue = rapid.SampledFrom([]PadValue{0, 1, 100}).Draw(t, "value")
		in.Mask, in.Lengths = rapid.Bool().Draw(t, "mask"), rapid.Bool().Draw(t, "lengths")
	}
	return in
}

// drawQuery makes a query whose items have between 0 and 3 dimensions.
func drawQuery(t *rapid.T, inputs []Input) sent {
	q := sent{items: make(map[string]any)}
	for _, in := range inputs {
		if in.Optional && rapid.Bool().Draw(t, "absent") {
			continue
		}
		least := 0
		if in.Pad != nil {
			least = 1
		}
		shape := rapid.SliceOfN(rapid.IntRange(1, 3), least, 3).Draw(t, "shape")
		q.items[in.Name] = drawTree(t, shape)
	}
	body, err := json.Marshal(q.items)
	if err != nil {
		t.Fatal(err)
	}
	q.body = body
	return q
}

func drawTree(t *rapid.T, shape []int) any {
	if len(shape) == 0 {
		return float64(rapid.IntRange(0, 100).Draw(t, "number"))
	}
	list := make([]any, shape[0])
	for i := range list {
		list[i] = drawTree(t, shape[1:])
	}
	return list
}

// checkBatch lays a batch out and looks for each item in the blocks, by way of the
// answers that a model would give that returns its inputs.
func checkBatch(t *rapid.T, batch []sent) {
	var c Collation
	for _, q := range batch {
		c.Add(q.row)
	}
	size, err := c.Measure()
	if err != nil {
		t.Fatal(err)
	}
	block := bytes.Repeat([]byte{0xee}, size)
	layout := c.AppendLayout(nil)
	c.Fill(block)
	inputs := batch[0].row.Signature().Inputs()
	for _, q := range batch {
		q.row.Release()
	}
	var reader AnswerReader
	a, err := reader.Read(layout, block)
	if err != nil || a.Len() != len(batch) {
		t.Fatalf("%s: %v", layout, err)
	}
	for i, q := range batch {
		text, err := a.Item(i).AppendJSON(nil)
		if err != nil {
			t.Fatal(err)
		}
		got, want := make(map[string]any), make(map[string]any)
		if err := json.Unmarshal(text, &got); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		for _, in := range inputs {
			if item, ok := q.items[in.Name]; ok {
				expect(want, in, item, got[in.Name])
			}
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Fatalf("query %d of the batch %s:\n got %v\nwant %v", i, layout, got, want)
		}
	}
}

// expect adds the arrays that an item becomes. How long a padded one is, shows got.
func expect(want map[string]any, in Input, item, got any) {
	want[in.Name] = item
	if in.Pad == nil {
		return
	}
	list, padded := item.([]any), got.([]any)
	whole, mask := slices.Clone(list), []any{}
	for i := range padded {
		if mask = append(mask, i < len(list)); i >= len(list) {
			whole = append(whole, fill(list[0], float64(in.PadValue)))
		}
	}
	want[in.Name] = whole
	if in.Mask {
		want[in.Name+"_mask"] = mask
	}
	if in.Lengths {
		want[in.Name+"_lengths"] = float64(len(list))
	}
}

// fill is a tree like another, of one value.
func fill(like any, v float64) any {
	list, ok := like.([]any)
	if !ok {
		return v
	}
	out := make([]any, len(list))
	for i := range list {
		out[i] = fill(list[i], v)
	}
	return out
}

func TestPadding(t *testing.T) {
	for _, test := range []struct {
		name   string
		input  Input
		bodies []string
		layout string
		items  []string
	}{
		{
			"to the longest, with mask and lengths", Input{Name: "x", Pad: &Pad{}, PadValue: -1, Mask: true, Lengths: true},
			[]string{`[1]`, `[2,3,4]`}, `[["x","<i8",[2,3]],["x_mask","|b1",[2,3]],["x_lengths","<i8",[2]]]`,
			[]string{`{"x":[1,-1,-1],"x_mask":[true,false,false],"x_lengths":1}`, `{"x":[2,3,4],"x_mask":[true,true,true],"x_lengths":3}`},
		},
		{
			"to a bucket", Input{Name: "x", Dtype: Float32, Pad: &Pad{Buckets: []int{2, 4, 8}}, PadValue: 0.5},
			[]string{`[1,2,3]`, `[1,2,3,4]`}, `[["x","<f4",[2,4]]]`, []string{`{"x":[1,2,3,0.5]}`, `{"x":[1,2,3,4]}`},
		},
		{
			"of rows", Input{Name: "x", Pad: &Pad{}},
			[]string{`[[1,2]]`, `[[3,4],[5,6]]`}, `[["x","<i8",[2,2,2]]]`, []string{`{"x":[[1,2],[0,0]]}`, `{"x":[[3,4],[5,6]]}`},
		},
		{
			"of booleans", Input{Name: "x", Dtype: Bool, Pad: &Pad{}, PadValue: 1},
			[]string{`[false]`, `[false,false]`}, `[["x","|b1",[2,2]]]`, []string{`{"x":[false,true]}`, `{"x":[false,false]}`},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := signature(t, test.input)
			var rows []*Row
			for _, body := range test.bodies {
				row, err := s.DecodeRequest("", "/", []byte(body))
				if err != nil {
					t.Fatal(err)
				}
				rows = append(rows, row)
			}
			if rows[0].Key() != rows[1].Key() {
				t.Fatalf("keys %q and %q", rows[0].Key(), rows[1].Key())
			}
			layout, block := collate(t, rows...)
			var reader AnswerReader
			a, err := reader.Read([]byte(layout), block)
			if err != nil || layout != test.layout {
				t.Fatal(layout, err)
			}
			for i, want := range test.items {
				if got, err := a.Item(i).AppendJSON(nil); err != nil || string(got) != want {
					t.Errorf("item %d: %s, %v; want %s", i, got, err, want)
				}
			}
		})
	}
}

// ones is a list of n integers.
func ones(n int) string { return "[1" + strings.Repeat(",1", n-1) + "]" }

func TestRowsThatDoNotShareABatch(t *testing.T) {
	padded := signature(t, Input{Name: "x", Pad: &Pad{Buckets: []int{2, 4}}})
	plain := signature(t, Input{Name: "x"}, Input{Name: "y", Optional: true})
	longest := signature(t, Input{Name: "x", Pad: &Pad{}})
	for _, test := range []struct {
		s    *Signature
		a, b string
		same bool
	}{
		{plain, `{"x":1}`, `{"x":2}`, true},
		{plain, `{"x":1}`, `{"x":1.5}`, false},
		{plain, `{"x":1}`, `{"x":[1]}`, false},
		{plain, `{"x":[1,2]}`, `{"x":[1,2,3]}`, false},
		{plain, `{"x":[1,2]}`, `{"x":[[1,2]]}`, false},
		{plain, `{"x":1}`, `{"x":1,"y":1}`, false},
		{plain, `{"x":[1,1],"y":1}`, `{"x":1,"y":[1,1]}`, false},
		{padded, `[1]`, `[1,2]`, true},
		{padded, `[1,2]`, `[1,2,3]`, false},
		{padded, `[[1]]`, `[[1,2]]`, false},
		{longest, `[1]`, `[1,2,3]`, true},
		{longest, `[[1]]`, `[[1,2]]`, false},
		{longest, `[1]`, `[1.5]`, false},
		{longest, ones(largeItem/8 - 1), `[1]`, true},
		{longest, ones(largeItem / 8), `[1]`, false},
		{longest, ones(largeItem / 8), ones(largeItem/8 + 1), true},
		{longest, ones(largeItem / 8), ones(largeItem / 4), false},
	} {
		a, err := test.s.DecodeRequest("", "/", []byte(test.a))
		if err != nil {
			t.Fatal(err)
		}
		b, err := test.s.DecodeRequest("", "/", []byte(test.b))
		if err != nil {
			t.Fatal(err)
		}
		if (a.Key() == b.Key()) != test.same {
			t.Errorf("%s and %s: keys %q and %q", test.a, test.b, a.Key(), b.Key())
		}
		a.Release()
		b.Release()
	}
}

// Callers who think of ever new shapes get their answers, and take no memory for good.
func TestShapesWithoutEnd(t *testing.T) {
	s := signature(t, Input{Name: "x"})
	for n := 1; n <= maxLayouts+10; n++ {
		row, err := s.DecodeRequest("", "/", []byte(ones(n)))
		if err != nil {
			t.Fatal(err)
		}
		if layout, block := collate(t, row); layout != fmt.Sprintf(`[["x","<i8",[1,%d]]]`, n) || len(block) != 8*n {
			t.Fatal(layout, len(block))
		}
	}
	if n := len(*s.layouts.Load()); n != maxLayouts {
		t.Errorf("%d layouts are remembered, want %d", n, maxLayouts)
	}
}

func TestABatchLargerThanMemoryIsRefused(t *testing.T) {
	s := signature(t, Input{Name: "x", Pad: &Pad{Buckets: []int{math.MaxInt}}})
	row, err := s.DecodeRequest("", "/", []byte(`[1]`))
	if err != nil {
		t.Fatal(err)
	}
	defer row.Release()
	var c Collation
	c.Add(row)
	if _, err := c.Measure(); !errors.Is(err, ErrTooLarge) {
		t.Error(err)
	}
}
