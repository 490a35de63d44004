package tensor

import (
	"encoding/json"
	"fmt"
	"strconv"
	"unicode/utf8"
)

// The decoder reads JSON without a tree in between: it looks for nothing but
// objects of inputs, and for numbers and booleans in nested lists. It takes what
// encoding/json takes, and besides refuses keys that are there twice and texts that
// are not UTF-8.

// document reads a whole body.
func (d *decoder) document() error {
	d.space()
	if d.peek() == '{' {
		if err := d.object(); err != nil {
			return err
		}
		return d.rest()
	}
	if err := d.beginSole("a body that is not an object"); err != nil {
		return err
	}
	if err := d.value(); err != nil {
		return err
	}
	return d.rest()
}

// args reads the payload of an API query.
func (d *decoder) args() error {
	d.space()
	var data, kwargs bool
	err := d.members(func(key []byte, at int) error {
		switch {
		case string(key) == "data" && !data:
			if data = true; d.null() {
				return nil
			}
			if err := d.beginInput(0, at); err != nil {
				return err
			}
			return d.value()
		case string(key) == "kwargs" && !kwargs:
			kwargs = true
			return d.object()
		}
		return errorf("", at, "its arguments have a key %q that is there twice or is neither data nor kwargs", shortened(string(key)))
	})
	if err != nil {
		return err
	}
	return d.rest()
}

// object reads inputs by name.
func (d *decoder) object() error {
	return d.members(func(key []byte, at int) error {
		if err := d.begin(borrow(key), at); err != nil {
			return err
		}
		return d.value()
	})
}

// members reads an object; member is called at each value and reads it.
func (d *decoder) members(member func(key []byte, at int) error) error {
	if d.peek() != '{' {
		return d.unexpected("an object")
	}
	d.pos++
	if d.space(); d.peek() == '}' {
		d.pos++
		return nil
	}
	for {
		d.space()
		at := d.pos
		key, err := d.text()
		if err != nil {
			return err
		}
		if d.space(); d.peek() != ':' {
			return d.unexpected("':' after a key")
		}
		d.pos++
		d.space()
		if err := member(key, at); err != nil {
			return err
		}
		d.space()
		switch d.peek() {
		case ',':
			d.pos++
		case '}':
			d.pos++
			return nil
		default:
			return d.unexpected("',' or '}'")
		}
	}
}

// text reads a string and returns what it says: a part of the body, unless there
// are escapes in it.
func (d *decoder) text() ([]byte, error) {
	if d.peek() != '"' {
		return nil, d.unexpected("a string")
	}
	start, escaped := d.pos, false
	for d.pos++; ; d.pos++ {
		switch c := d.peek(); {
		case c == '"':
			d.pos++
			return d.unquote(start, escaped)
		case c == '\\':
			escaped = true
			d.pos++
		case c < ' ': // also the end
			return nil, d.unexpected("the rest of a string")
		}
	}
}

func (d *decoder) unquote(start int, escaped bool) ([]byte, error) {
	quoted := d.body[start:d.pos]
	if !utf8.Valid(quoted) {
		return nil, errorf("", start, "a string that is not UTF-8")
	}
	if !escaped {
		return quoted[1 : len(quoted)-1], nil
	}
	var s string
	if err := json.Unmarshal(quoted, &s); err != nil {
		return nil, errorf("", start, "a string that is not JSON: %v", err)
	}
	return []byte(s), nil
}

// null reads a null, if there is one.
func (d *decoder) null() bool {
	if len(d.body)-d.pos >= 4 && string(d.body[d.pos:d.pos+4]) == "null" {
		d.pos += 4
		return true
	}
	return false
}

// value reads the value of the current input.
func (d *decoder) value() error {
	start := d.pos
	if d.peek() == '{' {
		if err := d.binary(); err != nil {
			return err
		}
	} else if err := d.numbers(); err != nil {
		return err
	}
	return d.end(start)
}

// rest refuses anything after the value.
func (d *decoder) rest() error {
	if d.space(); d.pos < len(d.body) {
		return d.unexpected("the end")
	}
	return nil
}

func (d *decoder) space() {
	for d.pos < len(d.body) {
		switch d.body[d.pos] {
		case ' ', '\n', '\t', '\r':
			d.pos++
		default:
			return
		}
	}
}

// peek returns the next byte, 0 at the end. A zero byte is nothing in JSON either.
func (d *decoder) peek() byte {
	if d.pos < len(d.body) {
		return d.body[d.pos]
	}
	return 0
}

// unexpected is the error of text that is not JSON.
func (d *decoder) unexpected(want string) *InputError {
	return errorf("", min(d.pos, len(d.body)), "it is not JSON: %s where %s should be", d.found(), want)
}

// found names the next character.
func (d *decoder) found() string {
	if d.pos >= len(d.body) {
		return "the end"
	}
	r, size := utf8.DecodeRune(d.body[d.pos:])
	if r == utf8.RuneError && size <= 1 {
		return fmt.Sprintf("byte 0x%02x", d.body[d.pos])
	}
	return strconv.QuoteRune(r)
}

func sizeText(n int) string {
	if n == Any {
		return "any"
	}
	return strconv.Itoa(n)
}
