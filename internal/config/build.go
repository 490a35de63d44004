package config

import (
	"fmt"
	"maps"
	"math"

	"go.yaml.in/yaml/v4"
)

// maxNodes bounds what a file says once its aliases are written out; a few
// lines of aliases of aliases could fill the memory.
const maxNodes = 100_000

// builder makes values with JSON's types of a document's nodes, and collects
// what JSON does not have.
type builder struct {
	doc    *document
	errors Errors
	open   map[*yaml.Node]bool // nodes whose value is being made
	nodes  int
}

func (b *builder) fail(node *yaml.Node, format string, args ...any) {
	b.errors = append(b.errors, b.doc.position(node, fmt.Sprintf(format, args...)))
}

// value returns a node's value; nil where something is wrong.
func (b *builder) value(node *yaml.Node) any {
	if b.nodes++; b.nodes >= maxNodes {
		if b.nodes == maxNodes {
			b.fail(node, "the file says more than %d things; are there aliases of aliases?", maxNodes)
		}
		return nil
	}
	switch node.Kind {
	case yaml.AliasNode:
		return b.alias(node)
	case yaml.SequenceNode:
		list := []any{}
		defer b.enter(node)()
		for _, item := range node.Content {
			list = append(list, b.value(item))
		}
		return list
	case yaml.MappingNode:
		defer b.enter(node)()
		return b.mapping(node)
	case yaml.ScalarNode:
		return b.scalar(node)
	}
	return nil
}

func (b *builder) enter(node *yaml.Node) (leave func()) {
	b.open[node] = true
	return func() { delete(b.open, node) }
}

func (b *builder) alias(node *yaml.Node) any {
	if b.open[node.Alias] {
		b.fail(node, "the anchor %q contains itself", node.Value)
		return nil
	}
	return b.value(node.Alias)
}

func (b *builder) mapping(node *yaml.Node) map[string]any {
	values, merged := make(map[string]any), make(map[string]any)
	first := make(map[string]*yaml.Node)
	for key, value := range pairs(node) {
		key = resolve(key)
		if key.Kind != yaml.ScalarNode {
			b.fail(key, "a key must be a text")
			continue
		}
		if key.ShortTag() == "!!merge" {
			b.merge(merged, value)
			continue
		}
		if other, twice := first[key.Value]; twice {
			b.fail(key, "the key %q stands here twice, first in line %d", key.Value, other.Line)
			continue
		}
		first[key.Value] = key
		values[key.Value] = b.value(value)
	}
	maps.Copy(merged, values)
	return merged
}

// merge reads "<<: *other" or "<<: [*one, *other]", of which the first counts.
func (b *builder) merge(into map[string]any, node *yaml.Node) {
	sources := []any{b.value(node)}
	if list, ok := sources[0].([]any); ok {
		sources = list
	}
	for _, source := range sources {
		from, ok := source.(map[string]any)
		if !ok {
			b.fail(node, "only a mapping can be merged")
			return
		}
		for key, value := range from {
			if _, there := into[key]; !there {
				into[key] = value
			}
		}
	}
}

func (b *builder) scalar(node *yaml.Node) any {
	switch node.ShortTag() {
	case "!!null":
		return nil
	case "!!bool", "!!int", "!!float":
	default: // texts, and what is one to JSON, such as a timestamp
		return node.Value
	}
	var value any
	if err := node.Decode(&value); err != nil {
		b.fail(node, "the value is not of the kind that its tag says") // it may be a secret
		return nil
	}
	if number, ok := value.(float64); ok && (math.IsInf(number, 0) || math.IsNaN(number)) {
		b.fail(node, "a number must be finite")
		return nil
	}
	return value
}
