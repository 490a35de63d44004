package config

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/shoalserve/shoal/internal/serving"
)

func TestTheDocumentedFileIsRightAndNamesEveryKey(t *testing.T) {
	page, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(page), "```yaml\n")
	text, _, found := strings.Cut(rest, "```")
	if !found {
		t.Fatal("the page has no YAML")
	}
	file, err := Parse("configuration.md", "/etc/shoal", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	v1, v2 := file.Backends["adder:v1"], file.Backends["adder:v2"]
	if v1.Spec.Source.Path != "/etc/shoal/adder.py" || v2.Spec.Source.Object != "Adder" || v1.Config.MaxQueuedBytes != 256<<20 {
		t.Errorf("backends: %+v, %+v", v1, v2)
	}
	if file.HTTP.MaxBody != 10<<20 || time.Duration(file.HTTP.IdleTimeout) != 2*time.Minute || file.Endpoints["adder"].Shadow["adder:v2"] != 0.5 {
		t.Errorf("file: %+v", file)
	}
	for _, key := range serving.ConfigKeys() {
		if !strings.Contains(text, key+":") {
			t.Errorf("the page does not show config key %s", key)
		}
	}
}
