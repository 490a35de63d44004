package rest

import (
	"encoding/json"
	"slices"
	"testing"

	"github.com/shoalserve/shoal/internal/serving"
)

func TestTheOpenAPIDocumentDescribesTheRoutes(t *testing.T) {
	b := answering("m", text("x"))
	b.example = &serving.Example{Query: map[string]any{"number": 1}}
	s := serve(t, Options{}, b)
	got := s.ask("GET", "/openapi.json", "")
	var document struct {
		OpenAPI string `json:"openapi"`
		Paths   map[string]map[string]struct {
			Parameters []struct {
				Ref  string `json:"$ref"`
				Name string `json:"name"`
			} `json:"parameters"`
			RequestBody any            `json:"requestBody"`
			Responses   map[string]any `json:"responses"`
		} `json:"paths"`
	}
	if err := json.Unmarshal([]byte(got.body), &document); err != nil || got.Header.Get("Content-Type") != "application/json" {
		t.Fatalf("%v in %s", err, got.body)
	}
	if document.OpenAPI != "3.1.0" || len(document.Paths) != 6 {
		t.Errorf("%s with %d paths", document.OpenAPI, len(document.Paths))
	}
	get, post := document.Paths["/m"]["get"], document.Paths["/m"]["post"]
	if get.RequestBody != nil || post.RequestBody == nil {
		t.Errorf("bodies: GET %v, POST %v", get.RequestBody, post.RequestBody)
	}
	var names []string
	for _, p := range get.Parameters {
		names = append(names, p.Ref+p.Name)
	}
	for _, want := range []string{"#/components/parameters/Shoal-Timeout", "number"} {
		if !slices.Contains(names, want) {
			t.Errorf("GET has no parameter %s: %v", want, names)
		}
	}
	for _, status := range []string{"200", "400", "503", "504"} {
		if get.Responses[status] == nil {
			t.Errorf("status %s is not told of", status)
		}
	}
}
