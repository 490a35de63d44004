// Package problem writes errors as the HTTP fronts show them: problem details,
// RFC 9457.
package problem

import (
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"unicode"

	"github.com/shoalserve/shoal/internal/serving"
)

const (
	// ContentType is the media type of problem details.
	ContentType = "application/problem+json"
	typeURL     = "https://shoalserve.dev/problems/"
	// modelError names errors of models, whose codes are their own types.
	modelError = "model-error"
)

// Problem is an error in JSON. Members that are empty are left out.
type Problem struct {
	Type   string       `json:"type"`
	Title  string       `json:"title"`
	Status int          `json:"status"`
	Detail string       `json:"detail"`
	Code   serving.Code `json:"code"`
	// Instance is the request's id.
	Instance string `json:"instance,omitempty"`
	// Traceback is the model's.
	Traceback string `json:"traceback,omitempty"`
	// Backend, Exception and Message are the parts of Detail, for clients that
	// make a typed error of it again.
	Backend   string `json:"backend,omitempty"`
	Exception string `json:"exception,omitempty"`
	Message   string `json:"message,omitempty"`
	// Offset, Line and Column say where a body is not JSON: bytes from 0, lines
	// and columns from 1.
	Offset *int64 `json:"offset,omitempty"`
	Line   int    `json:"line,omitempty"`
	Column int    `json:"column,omitempty"`

	header http.Header // that the model asked for
}

// Of describes an error.
func Of(err error) Problem {
	described := serving.Describe(err)
	p := Problem{
		Type: typeURL + slug(described.Code), Title: title(described.Code), Status: described.Status,
		Detail: described.Message, Code: described.Code, Traceback: described.Traceback, header: described.Header,
	}
	if p.Status < 400 || p.Status > 599 {
		p.Status = http.StatusInternalServerError
	}
	if described.Model {
		p.Type, p.Title, p.Exception = typeURL+modelError, "The model raised an error", string(described.Code)
	}
	if model, ok := errors.AsType[*serving.ModelError](err); ok {
		p.Backend = model.Backend
	} else if load, ok := errors.AsType[*serving.LoadError](err); ok {
		p.Backend, p.Exception, p.Message = load.Backend, load.Type, load.Message
	}
	return p
}

// Write answers with the problem.
func (p Problem) Write(w http.ResponseWriter) {
	body := p.Encode(w.Header())
	w.WriteHeader(p.Status)
	_, _ = w.Write(body) // a client that is gone cannot be told so
}

// Encode sets the headers of an answer with the problem, and returns its body.
func (p Problem) Encode(h http.Header) []byte {
	AddHeader(h, p.header)
	if p.Status == http.StatusServiceUnavailable && h.Get("Retry-After") == "" {
		h.Set("Retry-After", "1")
	}
	h.Del("Content-Encoding") // a model's header may speak of a body that is not sent
	h.Set("Content-Type", ContentType)
	body, err := json.Marshal(p)
	if err != nil { // a struct of texts and numbers always can be
		panic(err)
	}
	body = append(body, '\n')
	h.Set("Content-Length", strconv.Itoa(len(body)))
	return body
}

// IsModel reports whether the model raised the error.
func (p Problem) IsModel() bool { return p.Type == typeURL+modelError }

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
