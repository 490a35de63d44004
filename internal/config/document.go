package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"
)

// document is a YAML file that was parsed: its value, and where its parts are.
type document struct {
	name  string
	root  *yaml.Node // nil for a file that is empty
	value map[string]any
}

func parseDocument(name string, data []byte) (*document, error) {
	doc := &document{name: name, value: map[string]any{}}
	if err := doc.load(data); err != nil {
		return nil, err
	}
	if doc.root == nil {
		return nil, doc.empty()
	}
	b := &builder{doc: doc, open: make(map[*yaml.Node]bool)}
	value := b.value(doc.root)
	if len(b.errors) > 0 {
		return nil, b.errors.Sorted()
	}
	switch value := value.(type) {
	case map[string]any:
		doc.value = value
		doc.dropEmpty()
	case nil:
		return nil, doc.empty()
	default:
		return nil, Errors{doc.position(doc.root, `a config file is a mapping of sections, such as "backends:"`)}
	}
	return doc, nil
}

// empty refuses a file that says nothing: many programs that write files make them
// empty first, and a reload must not take that for their last word.
func (d *document) empty() error {
	return Errors{d.position(d.root, `the file is empty; to serve nothing on purpose, write "backends: {}"`)}
}

// load parses the one document that a file holds.
func (d *document) load(data []byte) error {
	loader, err := yaml.NewLoader(bytes.NewReader(data))
	if err != nil {
		return fmt.Errorf("reading %s: %w", d.name, err)
	}
	var first, second yaml.Node
	if err := loader.Load(&first); errors.Is(err, io.EOF) {
		return nil
	} else if err != nil {
		return d.syntax(err)
	}
	if err := loader.Load(&second); err == nil {
		return Errors{d.position(&second, "a config file holds one document")}
	} else if !errors.Is(err, io.EOF) {
		return d.syntax(err)
	}
	if first.Kind == yaml.DocumentNode && len(first.Content) > 0 {
		d.root = first.Content[0]
	}
	return nil
}

func (d *document) syntax(err error) error {
	e := &Error{File: d.name, Line: 1, Column: 1, Message: err.Error()}
	if syntax, ok := errors.AsType[*yaml.LoadError](err); ok {
		e.Message = syntax.Message
		if syntax.ContextMsg != "" {
			e.Message += " " + syntax.ContextMsg
		}
		if strings.HasPrefix(e.Message, "unknown anchor") { // which may be a secret that begins with *
			e.Message = "there is no such anchor; a text that begins with * must be in quotes"
		}
		e.Line, e.Column = max(1, syntax.Mark.Line), max(1, syntax.Mark.Column)
	}
	return Errors{e}
}

// guards are the sections that keep others out, or keep watch, with what is wrong with
// an empty one.
var guards = map[string]string{
	"auth": "auth: names no credential; give keys, jwt or certificates, or leave the section out to let everybody in",
	"tls":  "tls: names no certificate; give cert and key, or leave the section out to serve in the clear",

	"audit": "audit: names no file; give file, or leave the section out to have changes in the server's log",
}

// dropEmpty takes out sections without anything in them, such as one whose
// lines are all commented out: they say nothing. Those of auth, tls and audit
// stay, to be refused: without them everybody might ask, in the clear, and unnoticed.
func (d *document) dropEmpty() {
	maps.DeleteFunc(d.value, func(name string, value any) bool { return value == nil && guards[name] == "" })
	backends, _ := d.value["backends"].(map[string]any)
	for _, backend := range backends {
		if b, ok := backend.(map[string]any); ok && b["config"] == nil {
			delete(b, "config")
		}
	}
}

// position makes an error at a node.
func (d *document) position(node *yaml.Node, message string) *Error {
	e := &Error{File: d.name, Line: 1, Column: 1, Message: message}
	if node != nil {
		e.Line, e.Column = max(1, node.Line), max(1, node.Column)
	}
	return e
}

// at makes an error at the value that a path leads to, or at its key.
func (d *document) at(path []string, key bool, message string) *Error {
	return d.position(d.find(path, key), message)
}

// find follows a path as far as it leads.
func (d *document) find(path []string, key bool) *yaml.Node {
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
	return node
}

// child returns the key and the value that a step leads to from a node.
func child(node *yaml.Node, step string) (key, value *yaml.Node) {
	node = resolve(node)
	switch {
	case node == nil:
	case node.Kind == yaml.MappingNode:
		for key, value := range pairs(node) {
			if key.Value == step {
				return key, value
			}
		}
	case node.Kind == yaml.SequenceNode:
		if i, err := strconv.Atoi(step); err == nil && i >= 0 && i < len(node.Content) {
			return node.Content[i], node.Content[i]
		}
	}
	return nil, nil
}

// resolve follows an alias to what it stands for.
func resolve(node *yaml.Node) *yaml.Node {
	if node != nil && node.Kind == yaml.AliasNode {
		return node.Alias
	}
	return node
}

// pairs yields the keys and values of a mapping.
func pairs(mapping *yaml.Node) func(func(key, value *yaml.Node) bool) {
	return func(yield func(key, value *yaml.Node) bool) {
		for i := 0; i+1 < len(mapping.Content); i += 2 {
			if !yield(mapping.Content[i], mapping.Content[i+1]) {
				return
			}
		}
	}
}
