package shoal

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"reflect"

	"github.com/gorilla/schema"

	"github.com/shoalserve/shoal/batch"
	"github.com/shoalserve/shoal/internal/serving"
)

// Request is an HTTP query, for models that want to see it.
type Request struct {
	ID     string // X-Request-Id, given by the client or made by the server
	Method string
	URL    *url.URL // path and query
	Header http.Header
	Body   []byte
}

// Response is an HTTP answer, for models that want to write it.
type Response struct {
	Status int // default 200
	Header http.Header
	Body   []byte
}

// codec brings HTTP queries, and API queries in JSON, to a model and back.
type codec[In, Out any] struct {
	decode func(*Request) (In, error)
	encode func(Out) (*Response, error)
}

func (c codec[In, Out]) serving() serving.Codec[In, Out] {
	return serving.Codec[In, Out]{Decode: c.decodeCall, Encode: c.encodeCall}
}

func (c codec[In, Out]) decodeCall(call *serving.Call) (in In, err error) {
	if call.Origin == batch.API {
		return decodeArgs[In](call.Args)
	}
	r, err := newRequest(call.Request)
	if err != nil {
		return in, err
	}
	if c.decode != nil {
		in, err = c.decode(r)
	} else {
		in, err = decodeRequest[In](r)
	}
	if err != nil {
		return in, serving.Errorf(serving.InvalidArgument, "reading the request: %v", err)
	}
	return in, nil
}

func newRequest(r *serving.Request) (*Request, error) {
	u, err := url.ParseRequestURI(r.Target)
	if err != nil {
		return nil, serving.Errorf(serving.InvalidArgument, "reading the request's target: %v", err)
	}
	return &Request{ID: r.ID, Method: r.Method, URL: u, Header: r.Headers(), Body: r.Body}, nil
}

// decodeRequest reads an In the default way.
func decodeRequest[In any](r *Request) (in In, err error) {
	switch to := any(&in).(type) {
	case **Request:
		*to = r
	case *[]byte:
		*to = r.Body
	case *string:
		*to = string(r.Body)
	default:
		if len(r.Body) > 0 {
			err := json.Unmarshal(r.Body, &in)
			return in, err
		}
		err := decodeQuery(r.URL.Query(), &in)
		return in, err
	}
	return in, nil
}

var queryDecoder = func() *schema.Decoder {
	d := schema.NewDecoder()
	d.SetAliasTag("json")
	return d
}()

// decodeQuery reads a struct, or a pointer to one, from query parameters by the
// names of its fields, a map by its keys, and any other type from the only one.
func decodeQuery[In any](values url.Values, in *In) error {
	t := reflect.TypeFor[In]()
	switch {
	case t.Kind() == reflect.Struct:
		return queryDecoder.Decode(in, values)
	case t.Kind() == reflect.Pointer && t.Elem().Kind() == reflect.Struct:
		to := reflect.New(t.Elem())
		reflect.ValueOf(in).Elem().Set(to)
		return queryDecoder.Decode(to.Interface(), values)
	case t.Kind() == reflect.Map:
		return decodeQueryMap(values, in, t.Elem())
	}
	if len(values) != 1 {
		return fmt.Errorf("the model takes one value of type %T; give it as a JSON body or as the only query parameter, not as %d parameters", *in, len(values))
	}
	for name := range values {
		return decodeParameter(name, values.Get(name), in)
	}
	return nil
}

// decodeQueryMap reads a map from query parameters: texts as they are, where the
// map takes texts, and values of other types as JSON.
func decodeQueryMap(values url.Values, in any, element reflect.Type) error {
	object := make(map[string]any)
	for name := range values {
		object[name] = values.Get(name)
		if kind := element.Kind(); kind == reflect.String || kind == reflect.Interface {
			continue
		}
		value := reflect.New(element).Interface()
		if err := decodeParameter(name, values.Get(name), value); err != nil {
			return err
		}
		object[name] = value
	}
	return remarshal(object, in)
}

func decodeParameter(name, text string, to any) error {
	if err := json.Unmarshal([]byte(text), to); err != nil {
		return fmt.Errorf("query parameter %q is not a value of type %s: %w", name, reflect.TypeOf(to).Elem(), err)
	}
	return nil
}

func remarshal(from, to any) error {
	raw, err := json.Marshal(from)
	if err != nil {
		return err
	}
	return json.Unmarshal(raw, to)
}

// apiArgs is the payload of an API query in JSON.
type apiArgs struct {
	Data   json.RawMessage            `json:"data,omitempty"`
	Kwargs map[string]json.RawMessage `json:"kwargs,omitempty"`
}

// jsonHead is the head of an API query in JSON; see docs/protocol.md.
const jsonHead = `{"encoding":"json"}`

// newArgs are the keyword arguments of an object, and any other value as data.
func newArgs(in any) (args apiArgs, err error) {
	raw, err := json.Marshal(in)
	if err != nil {
		return args, fmt.Errorf("writing the query as JSON: %w", err)
	}
	if raw[0] != '{' {
		return apiArgs{Data: raw}, nil
	}
	if err := json.Unmarshal(raw, &args.Kwargs); err != nil {
		return args, fmt.Errorf("writing the query as keyword arguments: %w", err)
	}
	return args, nil
}

// encodeArgs is decodeArgs the other way round, for models in other languages.
func encodeArgs(in any) (serving.Args, error) {
	args, err := newArgs(in)
	if err != nil {
		return serving.Args{}, err
	}
	payload, err := json.Marshal(args)
	if err != nil {
		return serving.Args{}, fmt.Errorf("writing the query as JSON: %w", err)
	}
	return serving.Args{Head: []byte(jsonHead), Payload: payload}, nil
}

// decodeArgs reads an In from an API query: from its keyword arguments, if In
// is a struct or a map, or from its data or its only keyword argument.
func decodeArgs[In any](args serving.Args) (in In, err error) {
	var head struct {
		Encoding string `json:"encoding"`
	}
	if len(args.Head) > 0 {
		if err := json.Unmarshal(args.Head, &head); err != nil {
			return in, serving.Errorf(serving.InvalidArgument, "reading the query's head: %v", err)
		}
	}
	if head.Encoding != "json" {
		return in, serving.Errorf(serving.InvalidArgument, "the model is a Go function and takes JSON, not pickled Python objects; ask it over HTTP, or with allow_pickle: false, with which Python handles send JSON")
	}
	var a apiArgs
	if err := json.Unmarshal(args.Payload, &a); err != nil {
		return in, serving.Errorf(serving.InvalidArgument, "reading the query's arguments: %v", err)
	}
	if err := a.into(&in); err != nil {
		return in, serving.Errorf(serving.InvalidArgument, "reading the query's arguments: %v", err)
	}
	return in, nil
}

func (a apiArgs) into(in any) error {
	t := reflect.TypeOf(in).Elem()
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if len(a.Kwargs) > 0 && string(a.Data) == "null" { // as Python writes what was not given
		a.Data = nil
	}
	switch kind := t.Kind(); {
	case len(a.Data) > 0 && len(a.Kwargs) > 0:
		return fmt.Errorf("a Go model takes data or keyword arguments, not both")
	case len(a.Data) > 0:
		return json.Unmarshal(a.Data, in)
	case kind == reflect.Struct || kind == reflect.Map:
		if a.Kwargs == nil { // an object without anything is meant, not null
			a.Kwargs = map[string]json.RawMessage{}
		}
		return remarshal(a.Kwargs, in)
	case len(a.Kwargs) == 1:
		for _, value := range a.Kwargs {
			return json.Unmarshal(value, in)
		}
	}
	return fmt.Errorf("the model takes one value of type %s, not %d keyword arguments", reflect.TypeOf(in).Elem(), len(a.Kwargs))
}

func (c codec[In, Out]) encodeCall(_ *serving.Call, out Out) (serving.Response, error) {
	if c.encode != nil {
		response, err := c.encode(out)
		if err != nil {
			return serving.Response{}, fmt.Errorf("writing the response: %w", err)
		}
		return full(response), nil
	}
	switch out := any(out).(type) {
	case *Response:
		return full(out), nil
	case []byte:
		return serving.Response{Format: serving.Bytes, Body: out}, nil
	case string:
		return serving.Response{Format: serving.Text, Body: []byte(out)}, nil
	}
	body, err := json.Marshal(out)
	if err != nil {
		return serving.Response{}, fmt.Errorf("writing the model's answer as JSON: %w", err)
	}
	return serving.Response{Format: serving.JSON, Body: body}, nil
}

func full(r *Response) serving.Response {
	if r == nil {
		return serving.Response{Format: serving.Full, Status: http.StatusNoContent}
	}
	return serving.Response{Format: serving.Full, Status: r.Status, Header: r.Header, Body: r.Body}
}

// decodeResponse reads the answer of a model that is not a Go function.
func decodeResponse[Out any](r serving.Response) (out Out, err error) {
	switch to := any(&out).(type) {
	case *[]byte:
		*to = r.Body
		return out, nil
	case *string:
		if r.Format == serving.Text {
			*to = string(r.Body)
			return out, nil
		}
	}
	if r.Format != serving.JSON {
		return out, fmt.Errorf("the model answered with text or bytes, not with a value of type %s", reflect.TypeFor[Out]())
	}
	if err := json.Unmarshal(r.Body, &out); err != nil {
		return out, fmt.Errorf("reading the model's answer: %w", err)
	}
	return out, nil
}
