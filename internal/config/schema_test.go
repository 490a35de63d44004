package config

import (
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/shoalserve/shoal/internal/auth"
	"github.com/shoalserve/shoal/internal/secure"
	"github.com/shoalserve/shoal/internal/serving"
)

// at returns an object of the schema.
func at(t *testing.T, pointer string) map[string]any {
	t.Helper()
	node, _ := schema()
	for step := range strings.SplitSeq(pointer, "/") {
		if step != "" {
			node = descend(node, step)
		}
	}
	object, ok := node.(map[string]any)
	if !ok {
		t.Fatalf("the schema has nothing at %s", pointer)
	}
	return object
}

// keysOf are the JSON names of a struct's fields.
func keysOf(structType reflect.Type) []string {
	var keys []string
	for field := range structType.Fields() {
		if field.Anonymous {
			keys = append(keys, keysOf(field.Type)...)
			continue
		}
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		keys = append(keys, name)
	}
	return slices.Sorted(slices.Values(keys))
}

func TestSchemaAndTypesHaveTheSameKeys(t *testing.T) {
	for pointer, want := range map[string][]string{
		"":                  keysOf(reflect.TypeFor[rawFile]()),
		"properties/http":   keysOf(reflect.TypeFor[HTTP]()),
		"properties/tls":    keysOf(reflect.TypeFor[secure.Files]()),
		"properties/auth":   keysOf(reflect.TypeFor[auth.Config]()),
		"properties/audit":  keysOf(reflect.TypeFor[Audit]()),
		"$defs/issuer":      keysOf(reflect.TypeFor[auth.Issuer]()),
		"$defs/key":         keysOf(reflect.TypeFor[auth.Key]()),
		"$defs/certificate": keysOf(reflect.TypeFor[auth.Certificate]()),
		"properties/admin":  keysOf(reflect.TypeFor[Admin]()),
		"properties/log":    keysOf(reflect.TypeFor[Log]()),
		"properties/python": keysOf(reflect.TypeFor[Python]()),
		"$defs/backend":     keysOf(reflect.TypeFor[rawBackend]()),
		"$defs/config":      slices.Sorted(slices.Values(serving.ConfigKeys())),
		"$defs/endpoint":    keysOf(reflect.TypeFor[rawEndpoint]()),
		"$defs/source":      keysOf(reflect.TypeFor[rawSource]()),
		"$defs/example":     keysOf(reflect.TypeFor[serving.Example]()),
		"$defs/warm_up":     keysOf(reflect.TypeFor[serving.WarmUp]()),
		"$defs/canary":      keysOf(reflect.TypeFor[serving.CanarySpec]()),
		"$defs/compare":     keysOf(reflect.TypeFor[serving.Compare]()),

		"$defs/warm_up_request": keysOf(reflect.TypeFor[serving.WarmUpRequest]()),
	} {
		object := at(t, pointer)
		properties, _ := object["properties"].(map[string]any)
		if diff := cmp.Diff(want, slices.Sorted(maps.Keys(properties))); diff != "" {
			t.Errorf("%q: keys (-type +schema):\n%s", pointer, diff)
		}
		if object["additionalProperties"] != false {
			t.Errorf("%q takes keys that nobody knows", pointer)
		}
	}
}

func TestSchemaDescribesEverything(t *testing.T) {
	tree, _ := schema()
	var walk func(path string, node any)
	walk = func(path string, node any) {
		switch n := node.(type) {
		case map[string]any:
			if properties, ok := n["properties"].(map[string]any); ok {
				for key, value := range properties {
					if property, ok := value.(map[string]any); ok && property["description"] == nil {
						t.Errorf("%s/%s has no description", path, key)
					}
				}
			}
			for key, value := range n {
				walk(path+"/"+key, value)
			}
		case []any:
			for _, value := range n {
				walk(path, value)
			}
		}
	}
	walk("", tree)
}
