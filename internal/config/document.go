package config

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/agnivade/levenshtein"
	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	yamlparser "github.com/goccy/go-yaml/parser"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"
	"golang.org/x/text/language"
	"golang.org/x/text/message"
)

// Error is one thing that is wrong with a config file.
type Error struct {
	File         string
	Line, Column int // from 1
	Message      string
}

func (e *Error) Error() string {
	return fmt.Sprintf("%s:%d:%d: %s", e.File, e.Line, e.Column, e.Message)
}

// Errors is all that is wrong with a config file, in the order of the lines.
type Errors []*Error

func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i, err := range e {
		lines[i] = err.Error()
	}
	return strings.Join(lines, "\n")
}

func (e Errors) sorted() Errors {
	slices.SortStableFunc(e, func(a, b *Error) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	return slices.CompactFunc(e, func(a, b *Error) bool { return *a == *b })
}

// document is a YAML file that was parsed: its value, and where its parts are.
type document struct {
	name  string
	root  ast.Node
	value map[string]any
}

func parseDocument(name string, data []byte) (*document, error) {
	doc := &document{name: name, value: map[string]any{}}
	file, err := yamlparser.ParseBytes(data, 0)
	if err != nil {
		return nil, doc.syntax(err)
	}
	if len(file.Docs) > 1 {
		return nil, Errors{doc.position(file.Docs[1].Body, "a config file holds one document")}
	}
	if len(file.Docs) == 0 || file.Docs[0].Body == nil {
		return doc, nil
	}
	doc.root = file.Docs[0].Body
	var value any
	if err := yaml.NodeToValue(doc.root, &value); err != nil {
		return nil, doc.syntax(err)
	}
	switch value := value.(type) {
	case map[string]any:
		doc.value = value
	case nil:
	default:
		return nil, Errors{doc.position(doc.root, fmt.Sprintf("a config file is a mapping of sections, not %T", value))}
	}
	return doc, nil
}

func (d *document) syntax(err error) error {
	e := &Error{File: d.name, Line: 1, Column: 1, Message: err.Error()}
	if syntax, ok := errors.AsType[yaml.Error](err); ok {
		e.Message = syntax.GetMessage()
		if t := syntax.GetToken(); t != nil && t.Position != nil {
			e.Line, e.Column = t.Position.Line, t.Position.Column
		}
	}
	return Errors{e}
}

// position makes an error at a node.
func (d *document) position(node ast.Node, message string) *Error {
	e := &Error{File: d.name, Line: 1, Column: 1, Message: message}
	if node == nil {
		return e
	}
	if t := node.GetToken(); t != nil && t.Position != nil {
		e.Line, e.Column = t.Position.Line, t.Position.Column
	}
	return e
}

// at makes an error at the value that a path leads to, or at its key.
func (d *document) at(path []string, key bool, message string) *Error {
	return d.position(d.find(path, key), message)
}

// find follows a path as far as it leads.
func (d *document) find(path []string, key bool) ast.Node {
	node := d.root
	for i, step := range path {
		keyNode, value := child(node, step)
		if value == nil {
			break
		}
		if key && i == len(path)-1 {
			return keyNode
		}
		node = value
	}
	if mapping, ok := node.(*ast.MappingNode); ok && len(mapping.Values) > 0 {
		return mapping.Values[0].Key // the mapping's own token is its first colon
	}
	if pair, ok := node.(*ast.MappingValueNode); ok {
		return pair.Key
	}
	return node
}

// child returns the key and the value that a step leads to from a node.
func child(node ast.Node, step string) (key, value ast.Node) {
	switch n := node.(type) {
	case *ast.MappingNode:
		for _, pair := range n.Values {
			if keyText(pair.Key) == step {
				return pair.Key, pair.Value
			}
		}
	case *ast.MappingValueNode:
		if keyText(n.Key) == step {
			return n.Key, n.Value
		}
	case *ast.SequenceNode:
		if i, err := strconv.Atoi(step); err == nil && i < len(n.Values) {
			return n.Values[i], n.Values[i]
		}
	case *ast.AnchorNode:
		return child(n.Value, step)
	case *ast.TagNode:
		return child(n.Value, step)
	}
	return nil, nil
}

func keyText(key ast.Node) string {
	if s, ok := key.(*ast.StringNode); ok {
		return s.Value
	}
	return key.GetToken().Value
}

var compiled = sync.OnceValue(func() *jsonschema.Schema {
	schema, err := jsonschema.UnmarshalJSON(bytes.NewReader(Schema))
	if err != nil {
		panic(err) // the schema is embedded, and a test compiles it
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("schema.json", schema); err != nil {
		panic(err)
	}
	return c.MustCompile("schema.json")
})

var printer = message.NewPrinter(language.English)

// validate holds the document against the schema.
func (d *document) validate() error {
	encoded, err := json.Marshal(d.value) // the validator knows JSON's types
	if err != nil {
		return Errors{{File: d.name, Line: 1, Column: 1, Message: fmt.Sprintf("not a value that JSON has: %v", err)}}
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(encoded))
	if err != nil {
		return fmt.Errorf("reading the config back: %w", err)
	}
	invalid, ok := errors.AsType[*jsonschema.ValidationError](compiled().Validate(value))
	if !ok {
		return nil
	}
	var found Errors
	d.collect(invalid, &found)
	return found.sorted()
}

// collect turns the leaves of a validation error into errors with places.
func (d *document) collect(v *jsonschema.ValidationError, found *Errors) {
	path := v.InstanceLocation
	switch k := v.ErrorKind.(type) {
	case *kind.AdditionalProperties:
		for _, name := range k.Properties {
			*found = append(*found, d.at(append(slices.Clone(path), name), true, fmt.Sprintf("unknown key %q%s", name, suggest(name, propertiesOf(v.SchemaURL)))))
		}
		return
	case *kind.OneOf:
		*found = append(*found, d.at(path, true, d.explainOneOf(path)))
		return
	}
	if len(v.Causes) == 0 {
		*found = append(*found, d.at(path, false, fmt.Sprintf("%s: %s", strings.Join(path, "."), v.ErrorKind.LocalizedString(printer))))
		return
	}
	for _, cause := range v.Causes {
		d.collect(cause, found)
	}
}

// explainOneOf says what the schema's alternatives mean.
func (d *document) explainOneOf(path []string) string {
	if len(path) > 0 && path[len(path)-1] == "python" {
		return "python must be \"FILE.py:NAME\", or an object with file, object and, for a class, init_args and init_kwargs"
	}
	return fmt.Sprintf("endpoint %q needs either backend or traffic", path[len(path)-1])
}

// propertiesOf returns the keys that the object at a place in the schema has.
func propertiesOf(schemaURL string) []string {
	_, pointer, _ := strings.Cut(schemaURL, "#")
	var node any
	if err := json.Unmarshal(Schema, &node); err != nil {
		panic(err) // the schema is embedded, and a test compiles it
	}
	for step := range strings.SplitSeq(pointer, "/") {
		switch n := node.(type) {
		case map[string]any:
			if step != "" {
				node = n[step]
			}
		case []any:
			if i, err := strconv.Atoi(step); err == nil && i < len(n) {
				node = n[i]
			}
		}
	}
	object, _ := node.(map[string]any)
	properties, _ := object["properties"].(map[string]any)
	var names []string
	for name := range properties {
		names = append(names, name)
	}
	return names
}

// suggest names the candidate that is nearest, when it is near.
func suggest(name string, candidates []string) string {
	best, distance := "", len(name)/2+2
	slices.Sort(candidates)
	for _, c := range candidates {
		if d := levenshtein.ComputeDistance(name, c); d < distance {
			best, distance = c, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf("; did you mean %q?", best)
}
