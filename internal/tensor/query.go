package tensor

import (
	"errors"
	"net/url"
	"strings"
	"unsafe"
)

// query reads the arguments of a query string, each one a JSON value.
func (d *decoder) query(query string) error {
	for query != "" {
		var argument string
		argument, query, _ = strings.Cut(query, "&")
		if argument == "" {
			continue
		}
		name, text, _ := strings.Cut(argument, "=")
		name, err := unescape(name)
		if err != nil {
			return errorf("", -1, "its query string cannot be read: %v", err)
		}
		if text, err = unescape(text); err != nil {
			return errorf(name, -1, "its query argument cannot be read: %v", err)
		}
		if err := d.argument(name, text); err != nil {
			return err
		}
	}
	return nil
}

// argument reads one input from a text of its own.
func (d *decoder) argument(name, text string) error {
	if err := d.begin(name, -1); err != nil {
		return err
	}
	d.body, d.pos = unsafe.Slice(unsafe.StringData(text), len(text)), 0 // only to be read
	if len(text) > 0 && text[0] > ' ' && !strings.ContainsRune("-[{0123456789tf", rune(text[0])) {
		return d.errorf(0, "%q is not a JSON number, boolean or list", shortened(text))
	}
	err := d.value()
	if err == nil {
		err = d.rest()
	}
	if bad, ok := errors.AsType[*InputError](err); ok {
		bad.Input = name // the text is of this input alone, also where it is not JSON
	}
	return err
}

func unescape(s string) (string, error) {
	if !strings.ContainsAny(s, "%+") {
		return s, nil
	}
	return url.QueryUnescape(s)
}
