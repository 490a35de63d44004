package config

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/shoalserve/shoal/internal/auth"
	"github.com/shoalserve/shoal/internal/runtime/python"
	"github.com/shoalserve/shoal/internal/serving"
)

// Parse reads a config from its text. name is the file's, for errors; relative
// paths in it start at dir.
func Parse(name, dir string, data []byte) (*File, error) {
	doc, err := parseDocument(name, data)
	if err != nil {
		return nil, err
	}
	if err := doc.validate(); err != nil {
		return nil, err
	}
	p := &parser{doc: doc, dir: dir}
	file := p.file()
	if len(p.errors) > 0 {
		return nil, p.errors.Sorted()
	}
	return file, nil
}

// parser understands a document that fits the schema, and collects what does
// not make sense in it.
type parser struct {
	doc    *document
	dir    string
	errors Errors
}

func (p *parser) fail(path []string, key bool, format string, args ...any) {
	p.errors = append(p.errors, p.doc.at(path, key, fmt.Sprintf(format, args...)))
}

func (p *parser) file() *File {
	var raw rawFile
	p.sections(&raw)
	file := &File{
		HTTP: raw.HTTP, Admin: raw.Admin, TLS: raw.TLS, Audit: raw.Audit, Log: raw.Log, Python: raw.Python, doc: p.doc,
	}
	if raw.Backends != nil {
		file.Backends = make(map[string]Backend)
	}
	if raw.Endpoints != nil {
		file.Endpoints = make(map[string]Endpoint)
	}
	file.Admin.Address = p.adminAddress(raw.Admin.Address)
	file.Admin.TokenFile = p.path(raw.Admin.TokenFile)
	for _, path := range []*string{&file.TLS.Cert, &file.TLS.Key, &file.TLS.ClientCA} {
		*path = p.path(*path)
	}
	if file.Audit.File = p.path(raw.Audit.File); file.Audit.File == "" && p.doc.value["audit"] != nil {
		p.fail([]string{"audit", "file"}, false, "file must not be empty; leave the section out to have changes in the server's log")
	}
	if p.doc.value["auth"] != nil {
		file.Auth = p.auth(raw.Auth)
	}
	file.Python.Interpreter = p.executable(raw.Python.Interpreter)
	for i, entry := range raw.Python.SysPath {
		file.Python.SysPath[i] = p.path(entry)
	}
	for _, name := range slices.Sorted(maps.Keys(raw.Backends)) {
		if name == "" {
			p.fail([]string{"backends", name}, true, "a backend needs a name")
		}
		file.Backends[name] = p.backend(name, raw.Backends[name], file.Python)
	}
	routes := make(map[string]string)
	for _, name := range slices.Sorted(maps.Keys(raw.Endpoints)) {
		if name == "" {
			p.fail([]string{"endpoints", name}, true, "an endpoint needs a name")
		}
		file.Endpoints[name] = p.endpoint(name, raw.Endpoints[name], file.Backends, routes)
	}
	return file
}

// sections decodes each section by itself, so that an error names its place.
func (p *parser) sections(raw *rawFile) {
	for name, to := range map[string]any{
		"http": &raw.HTTP, "admin": &raw.Admin, "tls": &raw.TLS, "auth": &raw.Auth, "audit": &raw.Audit, "log": &raw.Log, "python": &raw.Python,
		"backends": &raw.Backends, "endpoints": &raw.Endpoints,
	} {
		section, ok := p.doc.value[name].(map[string]any)
		if !ok {
			continue
		}
		if name == "backends" || name == "endpoints" {
			p.decode([]string{name}, section, to)
			continue
		}
		for key, value := range section { // the keys one by one, for their places
			if p.decode([]string{name, key}, map[string]any{key: value}, to) && name == "http" {
				p.checkHTTP(key, raw.HTTP)
			}
		}
	}
}

func (p *parser) decode(path []string, value, to any) bool {
	encoded, err := json.Marshal(value)
	if err == nil {
		err = json.Unmarshal(encoded, to)
	}
	if err != nil {
		p.fail(path, false, "%s: %v", label(path), err)
	}
	return err == nil
}

// checkHTTP refuses values that are out of range; zero would mean the default.
func (p *parser) checkHTTP(key string, h HTTP) {
	path := []string{"http", key}
	value, isNumber := map[string]int64{
		"max_body": int64(h.MaxBody), "max_header": int64(h.MaxHeader),
		"read_header_timeout": int64(h.ReadHeaderTimeout), "read_timeout": int64(h.ReadTimeout),
		"idle_timeout": int64(h.IdleTimeout), "shutdown_timeout": int64(h.ShutdownTimeout),
		"max_inflight_bytes": int64(h.MaxInflightBytes), "max_connections": int64(h.MaxConnections),
	}[key]
	if isNumber && value <= 0 {
		p.fail(path, false, "%s must be more than 0", key)
	}
	if key == "shutdown_delay" && h.ShutdownDelay < 0 {
		p.fail(path, false, "shutdown_delay must not be negative")
	}
	if key != "address" {
		return
	}
	_, port, err := net.SplitHostPort(h.Address)
	if _, bad := strconv.ParseUint(port, 10, 16); err != nil || bad != nil {
		p.fail(path, false, "address must be host:port, such as \"127.0.0.1:8000\", not %q", h.Address)
	}
}

// adminAddress makes a socket's path relative to the file.
func (p *parser) adminAddress(address string) string {
	socket, isSocket := strings.CutPrefix(address, "unix:")
	switch {
	case isSocket && socket != "":
		return "unix:" + p.path(socket)
	case address == "", strings.HasPrefix(address, "http://"), strings.HasPrefix(address, "https://"):
		return address
	}
	p.fail([]string{"admin", "address"}, false, "address must be \"unix:/path\", \"http://host:port\" or \"https://host:port\", not %q", address)
	return ""
}

// auth makes the paths in a section relative to the file.
func (p *parser) auth(c auth.Config) *auth.Config {
	for name, key := range c.Keys {
		key.File = p.path(key.File)
		c.Keys[name] = key
	}
	for i := range c.JWT {
		c.JWT[i].JWKSFile, c.JWT[i].PublicKeyFile = p.path(c.JWT[i].JWKSFile), p.path(c.JWT[i].PublicKeyFile)
	}
	return &c
}

// executable makes a path of a program relative to the file; a bare name is
// looked up in PATH.
func (p *parser) executable(program string) string {
	if !strings.ContainsRune(program, filepath.Separator) {
		return program
	}
	return p.path(program)
}

func (p *parser) path(path string) string {
	if path == "" || filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(p.dir, path)
}

func (p *parser) backend(name string, raw rawBackend, shared Python) Backend {
	b := Backend{Spec: python.Spec{Interpreter: p.executable(raw.Interpreter), SysPath: shared.SysPath}}
	b.Spec.Source = python.Source{Kind: "file"}
	var short string
	if json.Unmarshal(raw.Python, &short) == nil {
		file, object, _ := strings.Cut(short, ".py:")
		b.Spec.Source.Path, b.Spec.Source.Object = file+".py", object
	} else {
		var long rawSource
		if err := json.Unmarshal(raw.Python, &long); err != nil {
			p.fail([]string{"backends", name, "python"}, false, "%v", err)
		}
		b.Spec.Source.Path, b.Spec.Source.Object = long.File, long.Object
		b.Spec.Source.InitArgs, b.Spec.Source.InitKwargs = long.InitArgs, long.InitKwargs
	}
	b.Spec.Source.Path = p.path(b.Spec.Source.Path)
	b.Config = p.config(name, raw.Config)
	return b
}

// config reads a backend's config, the keys one by one for their places.
func (p *parser) config(backend string, raw json.RawMessage) (c serving.Config) {
	var keys map[string]json.RawMessage
	if len(raw) > 0 {
		if err := json.Unmarshal(raw, &keys); err != nil {
			p.fail([]string{"backends", backend, "config"}, false, "%v", err)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		next, err := serving.DecodeConfig(c, fmt.Appendf(nil, "{%q:%s}", key, keys[key]))
		if err != nil {
			p.fail([]string{"backends", backend, "config", key}, false, "%s", strings.TrimPrefix(err.Error(), "config: "))
			continue
		}
		c = next
	}
	return c
}

func (p *parser) endpoint(name string, raw rawEndpoint, backends map[string]Backend, routes map[string]string) Endpoint {
	path := func(rest ...string) []string { return append([]string{"endpoints", name}, rest...) }
	e := Endpoint{Route: raw.Route, Methods: raw.Methods, Traffic: raw.Traffic, Shadow: raw.Shadow, Example: raw.Example, Canary: raw.Canary}
	known := func(backend string, key bool, at ...string) {
		if _, ok := backends[backend]; !ok {
			p.fail(path(at...), key, "backend %q is not in this file%s", backend, suggest(backend, slices.Collect(maps.Keys(backends))))
		}
	}
	if raw.Backend != "" {
		e.Traffic = map[string]float64{raw.Backend: 1}
		known(raw.Backend, false, "backend")
	} else {
		sum := 0.0
		for _, backend := range slices.Sorted(maps.Keys(raw.Traffic)) {
			sum += raw.Traffic[backend]
			known(backend, true, "traffic", backend)
		}
		if math.Abs(sum-1) > 1e-8 {
			p.fail(path("traffic"), true, "the weights sum to %v; they must sum to 1", sum)
		}
	}
	for _, backend := range slices.Sorted(maps.Keys(raw.Shadow)) {
		known(backend, true, "shadow", backend)
	}
	if c := raw.Canary; c != nil {
		known(c.Backend, false, "canary", "backend")
		if e.Traffic[c.Backend] > 0 {
			p.fail(path("canary", "backend"), false, "backend %q is in the traffic already; the canary takes it over from others", c.Backend)
		}
		if err := c.Check(); err != nil {
			p.fail(path("canary"), true, "%v", err)
		}
	}
	if other, taken := routes[raw.Route]; taken {
		p.fail(path("route"), false, "route %q belongs to endpoint %q already", raw.Route, other)
	} else if raw.Route != "" {
		routes[raw.Route] = name
	}
	if err := (&serving.EndpointSpec{Route: raw.Route}).Check(); err != nil {
		p.fail(path("route"), false, "%v", err)
	}
	if err := (&serving.EndpointSpec{Methods: raw.Methods}).Check(); err != nil {
		p.fail(path("methods"), false, "%v", err)
	}
	if err := (&serving.EndpointSpec{Example: raw.Example}).Check(); err != nil {
		p.fail(path("example"), false, "%v", err)
	}
	return e
}
