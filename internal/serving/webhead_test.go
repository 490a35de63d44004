package serving

import (
	"net/http"
	"reflect"
	"slices"
	"testing"
)

func TestAWebHeadSaysWhatTheHeadersSay(t *testing.T) {
	header := http.Header{"Accept": {"a", "b, c"}, "X-Empty": {""}, "X-Colon": {"k: v"}}
	built := &Request{ID: "id", Method: "POST", Target: "/m?a=1", Host: "h:80", Header: header}
	written := &Request{ID: "id", Method: "POST", Target: "/m?a=1", Host: "h:80", Head: []byte(
		"POST /m?a=1\nid\nHost: h:80\nAccept: a\nX-Empty: \nX-Colon: k: v\nAccept: b, c\n",
	)}
	again := &Request{Head: built.AppendHead(nil)}
	for name, r := range map[string]*Request{"built": built, "written": written, "written from a map": again} {
		if !reflect.DeepEqual(r.Headers(), header) {
			t.Errorf("%s: %v", name, r.Headers())
		}
		if got := slices.Collect(r.Values("Accept")); !slices.Equal(got, header["Accept"]) {
			t.Errorf("%s: Accept is %q", name, got)
		}
		for key, want := range map[string]string{"Accept": "a", "X-Empty": "", "X-Colon": "k: v", "X-None": "", "Host": ""} {
			if got := r.Get(key); got != want {
				t.Errorf("%s: %s is %q", name, key, got)
			}
		}
	}
	if got := string(written.AppendHead([]byte("x"))); got != "x"+string(written.Head) {
		t.Errorf("got %q", got)
	}
}
