package config

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/shoalserve/shoal/internal/auth"
	"github.com/shoalserve/shoal/internal/runtime/python"
	"github.com/shoalserve/shoal/internal/secure"
	"github.com/shoalserve/shoal/internal/serving"
)

// Schema is the JSON Schema of config files.
//
//go:embed schema.json
var Schema []byte

// File is what a config file says.
type File struct {
	HTTP      HTTP
	Admin     Admin
	TLS       secure.Files // of HTTP, and of Admin on TCP; empty: plain
	Auth      *auth.Config // nil: everybody may ask
	Audit     Audit
	Log       Log
	Python    Python
	Backends  map[string]Backend  // nil: the file does not speak of them
	Endpoints map[string]Endpoint // likewise

	doc *document // what it was parsed from
}

// Wrong says what is wrong with the value that a path leads to in a file that was
// parsed; where there is none, of what is nearest.
func (f *File) Wrong(message string, path ...string) *Error { return f.doc.at(path, false, message) }

// HTTP is where and how web queries are served. Zero fields mean the defaults.
type HTTP struct {
	Address           string           `json:"address"`
	MaxBody           serving.Size     `json:"max_body"`
	MaxHeader         serving.Size     `json:"max_header"`
	ReadHeaderTimeout serving.Duration `json:"read_header_timeout"`
	ReadTimeout       serving.Duration `json:"read_timeout"`
	IdleTimeout       serving.Duration `json:"idle_timeout"`
	ShutdownTimeout   serving.Duration `json:"shutdown_timeout"`
	ShutdownDelay     serving.Duration `json:"shutdown_delay"`
	ServerTiming      *bool            `json:"server_timing"`
	Front             string           `json:"front"` // "auto" or "net/http"
	MaxInflightBytes  serving.Size     `json:"max_inflight_bytes"`
	MaxConnections    int              `json:"max_connections"`
}

// Admin is where the server is run.
type Admin struct {
	Address   string `json:"address"`
	TokenFile string `json:"token_file"`
}

// Audit is where changes are written down.
type Audit struct {
	File string `json:"file"`
}

// Log is how the server logs.
type Log struct {
	Format string     `json:"format"`
	Level  slog.Level `json:"level"`
}

// Python is what all Python backends share.
type Python struct {
	Interpreter string   `json:"interpreter"`
	SysPath     []string `json:"sys_path"`
	AllowPickle *bool    `json:"allow_pickle"`
	PassEnv     []string `json:"pass_env"`
	User        string   `json:"user"`
}

// Backend is a model version.
type Backend struct {
	Spec   python.Spec
	Config serving.Config
}

// Endpoint is a name that queries are sent to.
type Endpoint struct {
	Route   string
	Methods []string
	Traffic map[string]float64
	Shadow  map[string]float64
	Example *serving.Example
	Canary  *serving.CanarySpec // nil: none
}

// Load reads a config file. What is wrong with it is an [Errors] with all of
// it. Paths in the file are relative to it.
func Load(path string) (*File, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading the config: %w", err)
	}
	dir, err := filepath.Abs(filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("reading the config: %w", err)
	}
	return Parse(path, dir, data)
}

// rawFile is a file that fits the schema, before its parts are understood.
type rawFile struct {
	HTTP      HTTP                   `json:"http"`
	Admin     Admin                  `json:"admin"`
	TLS       secure.Files           `json:"tls"`
	Auth      auth.Config            `json:"auth"`
	Audit     Audit                  `json:"audit"`
	Log       Log                    `json:"log"`
	Python    Python                 `json:"python"`
	Backends  map[string]rawBackend  `json:"backends"`
	Endpoints map[string]rawEndpoint `json:"endpoints"`
}

type rawBackend struct {
	Python      json.RawMessage `json:"python"`
	Interpreter string          `json:"interpreter"`
	Config      json.RawMessage `json:"config"`
}

// rawSource is the long form of a backend's key python.
type rawSource struct {
	File       string                     `json:"file"`
	Object     string                     `json:"object"`
	InitArgs   []json.RawMessage          `json:"init_args"`
	InitKwargs map[string]json.RawMessage `json:"init_kwargs"`
}

type rawEndpoint struct {
	Route   string             `json:"route"`
	Methods []string           `json:"methods"`
	Backend string             `json:"backend"`
	Traffic map[string]float64 `json:"traffic"`
	Shadow  map[string]float64 `json:"shadow"`
	Example *serving.Example   `json:"example"`

	Canary *serving.CanarySpec `json:"canary"`
}
