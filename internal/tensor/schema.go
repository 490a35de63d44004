package tensor

import (
	"math"
	"reflect"
	"slices"
)

// Names are those of the inputs, in order.
func (s *Signature) Names() []string { return slices.Clone(s.names) }

// Equal reports whether two signatures take the same.
func (s *Signature) Equal(other *Signature) bool { return reflect.DeepEqual(s.inputs, other.inputs) }

// JSONSchema describes, in JSON Schema 2020-12, the JSON that a query may bring. What
// it cannot say, such as that lists are equally long, is left to the decoder.
func (s *Signature) JSONSchema() map[string]any {
	properties, required := map[string]any{}, []string{}
	for _, in := range s.inputs {
		properties[in.Name] = in.schema()
		if !in.Optional {
			required = append(required, in.Name)
		}
	}
	named := map[string]any{"type": "object", "properties": properties, "required": required, "additionalProperties": false}
	if s.sole < 0 {
		return named
	}
	return map[string]any{"anyOf": []any{named, s.inputs[s.sole].schema()}}
}

// schema describes one input.
func (in Input) schema() map[string]any {
	binary := map[string]any{
		"type": "object", "required": []string{"b64"}, "additionalProperties": false,
		"properties": map[string]any{
			"b64": map[string]any{"type": "string", "contentEncoding": "base64"}, "dtype": map[string]any{"type": "string"},
			"shape": map[string]any{"type": "array", "items": map[string]any{"type": "integer"}},
		},
	}
	return map[string]any{"anyOf": []any{in.nested(), binary}}
}

// nested describes an input as a number or nested lists.
func (in Input) nested() map[string]any {
	element := in.Dtype.schema()
	if in.Shape == nil {
		list := map[string]any{"type": "array", "minItems": 1, "maxItems": 1_000_000}
		return map[string]any{"anyOf": []any{element, list}}
	}
	for _, size := range slices.Backward(in.Shape) {
		list := map[string]any{"type": "array", "items": element, "minItems": 1}
		if size != Any {
			list["minItems"], list["maxItems"] = size, size
		}
		element = list
	}
	return element
}

// schema describes an element.
func (d Dtype) schema() map[string]any {
	switch {
	case d == 0:
		return map[string]any{"type": []string{"number", "boolean"}}
	case d == Bool:
		return map[string]any{"type": "boolean"}
	case d.isFloat():
		return map[string]any{"type": "number"}
	case d.Size() == 8 && d.isUnsigned():
		return map[string]any{"type": "integer", "minimum": 0, "maximum": uint64(math.MaxUint64)}
	case d.Size() == 8:
		return map[string]any{"type": "integer", "minimum": int64(math.MinInt64), "maximum": int64(math.MaxInt64)}
	case d.isUnsigned():
		return map[string]any{"type": "integer", "minimum": 0, "maximum": 1<<(8*d.Size()) - 1}
	}
	most := 1 << (8*d.Size() - 1)
	return map[string]any{"type": "integer", "minimum": -most, "maximum": most - 1}
}
