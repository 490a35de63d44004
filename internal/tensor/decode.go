package tensor

import (
	"slices"
	"strings"
)

// Content types of binary bodies.
const (
	NPY = "application/x-npy"        // NumPy's file format: one array
	Raw = "application/octet-stream" // the elements, as the signature declares them
)

// DecodeRequest decodes a web query: a body in .npy or raw elements, where its
// content type says so, in JSON where there is another body, or else the arguments
// in the target's query string, each a JSON value. A body of JSON is an object of the
// inputs by name; what is not an object is the sole input. What is wrong with the
// query is an *InputError.
//
// The row refers to body; see [Row].
func (s *Signature) DecodeRequest(contentType, target string, body []byte) (*Row, error) {
	d := newDecoder(s, body)
	return d.done(d.request(contentType, target))
}

// DecodeArgs decodes an API query in JSON: {"data": any, "kwargs": {…}}. data, unless
// it is null, is the first input. Errors are those of [Signature.DecodeRequest].
func (s *Signature) DecodeArgs(payload []byte) (*Row, error) {
	d := newDecoder(s, payload)
	return d.done(d.args())
}

func (d *decoder) request(contentType, target string) error {
	switch media := mediaType(contentType); {
	case len(d.body) == 0:
		_, query, _ := strings.Cut(target, "?")
		return d.query(query)
	case media == NPY:
		if err := d.beginSole("a body of type " + NPY); err != nil {
			return err
		}
		return d.npy()
	case media == Raw:
		if err := d.beginSole("a body of type " + Raw); err != nil {
			return err
		}
		return d.raw()
	}
	return d.document()
}

// done returns the row if it is whole.
func (d *decoder) done(err error) (*Row, error) {
	row := d.row
	if err == nil {
		err = d.complete()
	}
	*d = decoder{} // let go of the body
	if err != nil {
		row.Release()
		return nil, err
	}
	row.sig.place(row)
	return row, nil
}

func mediaType(contentType string) string {
	if contentType == "" || contentType == "application/json" {
		return contentType
	}
	media, _, _ := strings.Cut(contentType, ";")
	return strings.ToLower(strings.TrimSpace(media))
}

// decoder reads one query into its row.
type decoder struct {
	sig  *Signature
	row  *Row
	body []byte // the JSON text, or the binary body
	pos  int    // in body: the next byte to be read

	// While an input's value is read:
	in *Input
	v  *value
}

// newDecoder begins a row. The decoder lives in it, which takes no allocation.
func newDecoder(s *Signature, body []byte) *decoder {
	r := newRow(s)
	r.decoder = decoder{sig: s, row: r, body: body}
	return &r.decoder
}

// complete refuses a row that lacks an input, or all of those that may be missing:
// of nothing there is no batch.
func (d *decoder) complete() error {
	empty := true
	for i := range d.row.values {
		present := d.row.values[i].dtype != 0
		if in := &d.sig.inputs[i]; !present && !in.Optional {
			return errorf(in.Name, -1, "it is missing; the model takes %s", d.sig.describe())
		}
		empty = empty && !present
	}
	if empty {
		return errorf("", -1, "it brings no input; the model takes %s", d.sig.describe())
	}
	return nil
}

// describe lists the inputs for people.
func (s *Signature) describe() string {
	var b strings.Builder
	for i, in := range s.inputs {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(in.Name)
		if in.Optional {
			b.WriteString(" (optional)")
		}
	}
	return b.String()
}

// begin turns to the input of a name.
func (d *decoder) begin(name string, offset int) error {
	for i := range d.sig.names {
		if d.sig.names[i] == name {
			return d.beginInput(i, offset)
		}
	}
	return errorf("", offset, "there is no input %q; the model takes %s%s", shortened(name), d.sig.describe(), suggest(name, d.sig.names))
}

func (d *decoder) beginInput(i, offset int) error {
	d.in, d.v = &d.sig.inputs[i], &d.row.values[i]
	if d.v.dtype != 0 {
		return d.errorf(offset, "it is there twice")
	}
	return nil
}

// beginSole turns to the input that a body without names is.
func (d *decoder) beginSole(what string) error {
	if d.sig.sole < 0 {
		return errorf("", -1, "%s gives one input, but the model takes %s; send a JSON object with them", what, d.sig.describe())
	}
	return d.beginInput(d.sig.sole, 0)
}

// end checks the shape of the value that was read; offset is where it began.
func (d *decoder) end(offset int) error {
	v, in := d.v, d.in
	if in.Shape != nil && !fits(v.dims(), in.Shape) {
		return d.errorf(offset, "its shape is %s, the model takes %s", shapeText(v.dims()), shapeText(in.Shape))
	}
	if in.Pad == nil {
		return nil
	}
	if v.ndim == 0 {
		return d.errorf(offset, "a single value where the model takes a list")
	}
	if b := in.Pad.Buckets; len(b) > 0 && v.shape[0] > b[len(b)-1] {
		return d.errorf(offset, "it has %d elements, the model takes at most %d", v.shape[0], b[len(b)-1])
	}
	return nil
}

func fits(shape, declared []int) bool {
	return slices.EqualFunc(shape, declared, func(n, want int) bool { return want == Any || n == want })
}

// errorf makes an error of the current input.
func (d *decoder) errorf(offset int, format string, args ...any) *InputError {
	return errorf(d.in.Name, offset, format, args...)
}

// shapeText shows a shape, such as [3, 224, any].
func shapeText(shape []int) string {
	var b strings.Builder
	b.WriteByte('[')
	for i, n := range shape {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(sizeText(n))
	}
	b.WriteByte(']')
	return b.String()
}

// shortened keeps what callers sent from filling an error.
func shortened(s string) string {
	const most = 60
	if len(s) <= most {
		return s
	}
	return s[:most] + "…"
}
