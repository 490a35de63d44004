package admin

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"unicode"

	"github.com/shoalserve/shoal/internal/serving"
)

const (
	problemType = "application/problem+json"
	problemURL  = "https://shoalserve.dev/problems/"
	// modelProblem names errors of models, whose codes are their own types.
	modelProblem = "model-error"
)

// problem is an error as RFC 9457 writes it. Backend, Exception and Message are
// the parts of Detail for clients that make a typed error of it again.
type problem struct {
	Type      string       `json:"type"`
	Title     string       `json:"title"`
	Status    int          `json:"status"`
	Detail    string       `json:"detail"`
	Code      serving.Code `json:"code"`
	Traceback string       `json:"traceback,omitempty"`
	Backend   string       `json:"backend,omitempty"`
	Exception string       `json:"exception,omitempty"`
	Message   string       `json:"message,omitempty"`
}

// writeError answers with an error as a problem.
func (f *Front) writeError(w http.ResponseWriter, r *http.Request, err error) {
	described := serving.Describe(err)
	p := problem{
		Title: title(described.Code), Status: described.Status, Detail: described.Message,
		Code: described.Code, Traceback: described.Traceback,
	}
	if described.Model {
		p.Type, p.Title = problemURL+modelProblem, "The model raised an error"
	}
	p.name(err)
	for name, values := range described.Header {
		w.Header()[http.CanonicalHeaderKey(name)] = values
	}
	if p.Status == http.StatusServiceUnavailable && w.Header().Get("Retry-After") == "" {
		w.Header().Set("Retry-After", "1")
	}
	if p.Status >= http.StatusInternalServerError && !described.Model {
		f.opts.Logger.Warn("admin call failed", "method", r.Method, "path", r.URL.Path, "code", p.Code, "error", err)
	}
	f.writeProblem(w, r, p)
}

// name fills in whose error it is.
func (p *problem) name(err error) {
	if model, ok := errors.AsType[*serving.ModelError](err); ok {
		p.Backend = model.Backend
	} else if load, ok := errors.AsType[*serving.LoadError](err); ok {
		p.Backend, p.Exception, p.Message = load.Backend, load.Type, load.Message
	}
}

func (f *Front) writeProblem(w http.ResponseWriter, r *http.Request, p problem) {
	if p.Status < 400 || p.Status > 599 {
		p.Status = http.StatusInternalServerError
	}
	if p.Type == "" {
		p.Type = problemURL + slug(p.Code)
	}
	raw, err := json.Marshal(p)
	if err != nil { // a struct of texts and a number always can be
		panic(err)
	}
	w.Header().Del("Content-Encoding") // a model's header may speak of a body that is not sent
	f.writeBody(w, r, p.Status, problemType, append(raw, '\n'))
}

// slug turns AlreadyExists into already-exists.
func slug(code serving.Code) string {
	var b strings.Builder
	for i, r := range string(code) {
		if unicode.IsUpper(r) && i > 0 {
			b.WriteByte('-')
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String()
}

// title turns AlreadyExists into "Already exists".
func title(code serving.Code) string {
	words := strings.ReplaceAll(slug(code), "-", " ")
	if words == "" {
		return "Error"
	}
	return strings.ToUpper(words[:1]) + words[1:]
}
