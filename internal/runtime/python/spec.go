package python

import "encoding/json"

// Spec says what a Python backend runs and where. It is the BackendSpec of
// docs/protocol.md, less the config.
type Spec struct {
	Source Source `json:"python"`
	// Interpreter is the Python to run; empty means the server's default.
	Interpreter string `json:"interpreter,omitempty"`
	// SysPath goes in front of the worker's sys.path.
	SysPath []string `json:"sys_path,omitempty"`
	// Cwd is the worker's working directory; empty means the server's.
	Cwd string `json:"cwd,omitempty"`
	// Closed is called once no worker of the source is started any more; not if
	// the first could not be. Nil: nobody is told.
	Closed func() `json:"-"`
}

// Source is where the function or class comes from.
type Source struct {
	// Kind is "pickle" or "file".
	Kind string `json:"kind"`
	// Digest names the artifact that holds a pickle.
	Digest string `json:"digest,omitempty"`
	// Path is the file of a "file" source, or of a pickle's artifact once it
	// was looked up.
	Path string `json:"path,omitempty"`
	// Object is the name in the file, such as "Adder" or "models.Adder".
	Object string `json:"object,omitempty"`
	// InitArgs and InitKwargs are given to a class; JSON values.
	InitArgs   []json.RawMessage          `json:"init_args,omitempty"`
	InitKwargs map[string]json.RawMessage `json:"init_kwargs,omitempty"`
}
