package rest

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/shoalserve/shoal/internal/auth"
	"github.com/shoalserve/shoal/internal/serving"
	"github.com/shoalserve/shoal/internal/tensor"
)

// object is an object of the OpenAPI document.
type object = map[string]any

// openAPI describes the routes, as far as the caller may reach them, in OpenAPI 3.1.
func (f *Front) openAPI(w http.ResponseWriter, r *http.Request) {
	reaches := func(string) bool { return true }
	if who, asked := r.Context().Value(callerKey{}).(*auth.Identity); asked {
		reaches = who.Reaches
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(f.document(reaches)) // a client that is gone cannot be told so
}

// document is the description of the endpoints that reaches lets through.
func (f *Front) document(reaches func(endpoint string) bool) object {
	paths := object{
		"/livez":        ownPath("The process serves.", "text/plain", false),
		"/readyz":       ownPath("All that gets traffic is ready, and has computed its example.", "text/plain", true),
		"/metrics":      ownPath("Metrics for Prometheus.", "text/plain", false),
		"/-/routes":     ownPath("The routes and their endpoints.", "application/json", false),
		"/openapi.json": ownPath("This document.", "application/json", false),
	}
	for _, e := range f.registry.Endpoints() {
		if e.Route != "" && reaches(e.Name) {
			paths[e.Route] = describe(e)
		}
	}
	document := object{
		"openapi": "3.1.0",
		"info": object{
			"title": "Shoal", "version": "1",
			"description": "The models that this server serves. A model may answer with other statuses than those listed here.",
		},
		"paths":      paths,
		"components": components(f.opts.Auth != nil),
	}
	if f.opts.Auth != nil {
		document["security"] = []object{{"bearer": []string{}}}
	}
	return document
}

// ownPath describes a path of the server itself.
func ownPath(what, media string, mayFail bool) object {
	responses := object{"200": object{"description": what, "content": object{media: object{}}}}
	for _, status := range []int{http.StatusUnauthorized, http.StatusForbidden} {
		responses[fmt.Sprint(status)] = refersTo("responses", "Problem")
	}
	if mayFail {
		responses["503"] = refersTo("responses", "Problem")
	}
	return object{"get": object{"summary": what, "tags": []string{"server"}, "responses": responses}}
}

func refersTo(kind, name string) object { return object{"$ref": "#/components/" + kind + "/" + name} }

// describe describes an endpoint's route.
func describe(e *serving.Endpoint) object {
	item := object{}
	for _, method := range e.Methods {
		item[strings.ToLower(method)] = operation(e, method)
	}
	return item
}

// headers are those that a query may bring, and their schemas.
var headers = map[string]object{
	"X-Request-Id":        {"type": "string", "pattern": "^[!-~]{1,128}$", "description": "taken over into the answer"},
	timeoutHeader:         {"type": "string", "examples": []string{"500ms"}, "description": "the answer is wanted this soon"},
	priorityHeader:        {"type": "integer", "minimum": -3, "maximum": 3},
	callerHeader:          {"type": "string", "maxLength": 128, "description": "for whom the query is"},
	"X-Serve-Shard-Key":   {"type": "string", "description": "equal keys go to the same backend of a split"},
	"X-Serve-Call-Method": {"type": "string", "description": "the method of a class to call"},
}

// statuses are those that the server itself may answer a query with.
var statuses = []int{
	http.StatusBadRequest, http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound, http.StatusRequestTimeout, http.StatusRequestEntityTooLarge,
	http.StatusTooManyRequests, http.StatusRequestHeaderFieldsTooLarge, http.StatusInternalServerError, http.StatusServiceUnavailable, http.StatusGatewayTimeout,
}

func operation(e *serving.Endpoint, method string) object {
	var parameters []object
	for _, name := range slices.Sorted(maps.Keys(headers)) {
		parameters = append(parameters, refersTo("parameters", name))
	}
	signature := arraysOf(e)
	responses := object{"200": object{
		"description": "What the model answered.",
		"content":     object{"application/json": object{}, "text/plain": object{}, "application/octet-stream": object{}, tensor.NPY: object{}},
		"headers":     object{"X-Request-Id": object{"schema": object{"type": "string"}}, "Shoal-Backend": object{"schema": object{"type": "string"}}},
	}}
	for _, status := range statuses {
		responses[fmt.Sprint(status)] = refersTo("responses", "Problem")
	}
	o := object{
		"operationId": e.Name + "-" + strings.ToLower(method), "summary": "Endpoint " + e.Name, "tags": []string{"endpoints"}, "responses": responses,
	}
	if method == http.MethodGet || method == http.MethodHead || method == http.MethodDelete || method == http.MethodOptions {
		parameters = append(parameters, queryParameters(e, signature)...)
	} else {
		o["requestBody"] = requestBody(e, signature)
	}
	o["parameters"] = parameters
	return o
}

// arraysOf is what the endpoint's model takes, where all of its backends take the same
// arrays; else nil.
func arraysOf(e *serving.Endpoint) *tensor.Signature {
	var found *tensor.Signature
	for _, b := range e.Backends() {
		taker, ok := b.(serving.ArrayTaker)
		if !ok {
			return nil
		}
		signature := taker.Arrays("")
		if signature == nil || (found != nil && !signature.Equal(found)) {
			return nil
		}
		found = signature
	}
	return found
}

// queryParameters are those of the arrays, or of the endpoint's example.
func queryParameters(e *serving.Endpoint, s *tensor.Signature) (parameters []object) {
	example := object{}
	if e.Example != nil {
		example = e.Example.Query
	}
	names := slices.Sorted(maps.Keys(example))
	if s != nil {
		names = s.Names()
	}
	for _, name := range names {
		p := object{"name": name, "in": "query", "schema": object{"type": "string"}}
		if value, ok := example[name]; ok {
			p["example"] = fmt.Sprint(value)
		}
		parameters = append(parameters, p)
	}
	return parameters
}

// requestBody says what the model takes, as far as that is known.
func requestBody(e *serving.Endpoint, s *tensor.Signature) object {
	asJSON := object{}
	content := object{"application/json": asJSON, "application/octet-stream": object{}}
	if s != nil {
		asJSON["schema"] = s.JSONSchema()
		content[tensor.NPY] = object{}
	} else {
		content["text/plain"] = object{"schema": object{"type": "string"}}
	}
	if e.Example != nil && e.Example.JSON != nil {
		asJSON["example"] = e.Example.JSON
	}
	return object{"content": content}
}

// components are what the operations share.
func components(secured bool) object {
	parameters := object{}
	for name, schema := range headers {
		parameters[name] = object{"name": name, "in": "header", "schema": schema}
	}
	text := object{"type": "string"}
	c := object{
		"parameters": parameters,
		"schemas": object{"Problem": object{
			"type": "object", "required": []string{"type", "title", "status", "detail", "code"}, "description": "Problem details, RFC 9457",
			"properties": object{
				"type": text, "title": text, "detail": text, "code": text, "instance": text, "status": object{"type": "integer"},
			},
		}},
		"responses": object{"Problem": object{
			"description": "What went wrong; code is one of the table in docs/http.md, or the type of the model's exception.",
			"content":     object{"application/problem+json": object{"schema": refersTo("schemas", "Problem")}},
		}},
	}
	if secured {
		c["securitySchemes"] = object{"bearer": object{"type": "http", "scheme": "bearer"}}
	}
	return c
}
