package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"
	"golang.org/x/text/language"
	"golang.org/x/text/message"
)

// schema is Schema as it is looked into, and ready to validate.
var schema = sync.OnceValues(func() (tree any, compiled *jsonschema.Schema) {
	tree, err := jsonschema.UnmarshalJSON(bytes.NewReader(Schema))
	if err != nil {
		panic(err) // the schema is embedded, and tests compile it
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("schema.json", tree); err != nil {
		panic(err)
	}
	return tree, c.MustCompile("schema.json")
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
	_, compiled := schema()
	invalid, ok := errors.AsType[*jsonschema.ValidationError](compiled.Validate(value))
	if !ok {
		return nil
	}
	var found Errors
	d.collect(invalid, &found)
	return found.Sorted()
}

// collect turns the leaves of a validation error into errors with places.
func (d *document) collect(v *jsonschema.ValidationError, found *Errors) {
	path := v.InstanceLocation
	add := func(path []string, key bool, message string) { *found = append(*found, d.at(path, key, message)) }
	switch k := v.ErrorKind.(type) {
	case *kind.AdditionalProperties:
		for _, name := range k.Properties {
			add(append(slices.Clone(path), name), true, fmt.Sprintf("unknown key %q%s", name, suggest(name, propertiesOf(v.SchemaURL))))
		}
	case *kind.Required:
		add(path, true, fmt.Sprintf("%s lacks the key %s", label(path), quoted(k.Missing)))
	case *kind.OneOf:
		d.collectOneOf(v, k, found)
	default:
		if len(path) == 1 && guards[path[0]] != "" && d.value[path[0]] == nil {
			add(path, true, guards[path[0]])
			return
		}
		if len(v.Causes) == 0 {
			add(path, false, explain(label(path), v.ErrorKind))
		}
		for _, cause := range v.Causes {
			d.collect(cause, found)
		}
	}
}

// collectOneOf says what the schema's alternatives mean.
func (d *document) collectOneOf(v *jsonschema.ValidationError, k *kind.OneOf, found *Errors) {
	path := v.InstanceLocation
	_, mapping := d.lookup(path).(map[string]any)
	if strings.HasSuffix(v.SchemaURL, "/properties/python") {
		for _, cause := range v.Causes {
			if mapping && strings.HasSuffix(cause.SchemaURL, "/oneOf/1") { // it is meant to be the object
				d.collect(cause, found)
				return
			}
		}
		*found = append(*found, d.at(path, false,
			`python must be "FILE.py:NAME", or a mapping with file, object and, for a class, init_args and init_kwargs`))
		return
	}
	switch {
	case !mapping: // which is said already
	case len(k.Subschemas) > 1:
		*found = append(*found, d.at(path, true, fmt.Sprintf("%s has both backend and traffic; give one of them", label(path))))
	default:
		*found = append(*found, d.at(path, true, fmt.Sprintf("%s needs either backend or traffic", label(path))))
	}
}

// explain says in a sentence what is wrong with a value and what would be right.
func explain(name string, k jsonschema.ErrorKind) string {
	switch k := k.(type) {
	case *kind.Type:
		hint := ""
		if slices.Equal(k.Want, []string{"string"}) && k.Got != "null" && k.Got != "object" && k.Got != "array" {
			hint = "; put it in quotes"
		}
		return fmt.Sprintf("%s must be %s, not %s%s", name, inWords(k.Want), inWords([]string{k.Got}), hint)
	case *kind.Enum:
		var wanted []string
		for _, w := range k.Want {
			wanted = append(wanted, fmt.Sprint(w))
		}
		return fmt.Sprintf("%s must be one of %s, not %q%s", name, strings.Join(wanted, ", "), fmt.Sprint(k.Got), suggest(fmt.Sprint(k.Got), wanted))
	case *kind.Minimum:
		return fmt.Sprintf("%s must be at least %s, not %s", name, k.Want.RatString(), k.Got.RatString())
	case *kind.Maximum:
		return fmt.Sprintf("%s must be at most %s, not %s", name, k.Want.RatString(), k.Got.RatString())
	case *kind.MinItems, *kind.MinProperties:
		return fmt.Sprintf("%s must not be empty", name)
	case *kind.Pattern:
		if k.Want == "^/" {
			return fmt.Sprintf("%s must begin with \"/\": %q", name, "/"+k.Got)
		}
	}
	return fmt.Sprintf("%s: %s", name, k.LocalizedString(printer))
}

// inWords names JSON's types as YAML's users do.
func inWords(types []string) string {
	words := make([]string, len(types))
	for i, t := range types {
		words[i] = map[string]string{
			"string": "a text", "number": "a number", "integer": "a whole number", "boolean": "true or false",
			"object": "a mapping", "array": "a list", "null": "empty",
		}[t]
	}
	return strings.Join(words, " or ")
}

// label is what a person calls the value at a path: its key, or where it stands
// in a list, or what kind of thing has the name.
func label(path []string) string {
	if len(path) == 0 {
		return "the file"
	}
	last := path[len(path)-1]
	if len(path) == 2 && (path[0] == "backends" || path[0] == "endpoints") {
		return fmt.Sprintf("%s %q", strings.TrimSuffix(path[0], "s"), last)
	}
	if _, err := strconv.Atoi(last); err == nil && len(path) > 1 {
		return fmt.Sprintf("%s[%s]", path[len(path)-2], last)
	}
	return last
}

func quoted(names []string) string {
	for i, name := range names {
		names[i] = strconv.Quote(name)
	}
	return strings.Join(names, " and ")
}

// lookup returns the value at a path.
func (d *document) lookup(path []string) any {
	var value any = d.value
	for _, step := range path {
		value = descend(value, step)
	}
	return value
}

// propertiesOf returns the keys that the object at a place in the schema has.
func propertiesOf(schemaURL string) []string {
	node, _ := schema()
	_, pointer, _ := strings.Cut(schemaURL, "#")
	for step := range strings.SplitSeq(pointer, "/") {
		if step != "" {
			node = descend(node, step)
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

// descend goes one step down into a JSON value; nil where there is nothing.
func descend(value any, step string) any {
	switch v := value.(type) {
	case map[string]any:
		return v[step]
	case []any:
		if i, err := strconv.Atoi(step); err == nil && i >= 0 && i < len(v) {
			return v[i]
		}
	}
	return nil
}
