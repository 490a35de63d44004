package rest

import (
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/shoalserve/shoal/batch"
	"github.com/shoalserve/shoal/internal/serving"
)

// This file writes answers as bytes, with the headers that net/http gives them.

// appendAnswer appends the head of the usual answer, one with status 200 and no
// headers of the model's own.
func (f *Front) appendAnswer(buf []byte, c *serving.Call, now time.Time, last bool) []byte {
	buf = append(buf, "HTTP/1.1 200 OK\r\nContent-Type: "...)
	buf = append(buf, contentTypes[c.Response.Format][0]...)
	buf = append(buf, "\r\nContent-Length: "...)
	buf = strconv.AppendInt(buf, int64(len(c.Response.Body)), 10)
	buf = append(buf, "\r\nDate: "...)
	buf = f.date.append(buf, now)
	buf = append(buf, "\r\nShoal-Backend: "...)
	buf = append(buf, c.Backend.Name()...)
	if c.Trip.BatchID != 0 && !f.opts.NoServerTiming {
		buf = append(buf, "\r\nServer-Timing: "...)
		buf = appendServerTiming(buf, c.Trip)
	}
	buf = append(buf, "\r\nX-Request-Id: "...)
	buf = append(buf, c.Request.ID...)
	if last {
		buf = append(buf, "\r\nConnection: close"...)
	}
	return append(buf, "\r\n\r\n"...)
}

// isUsual reports whether [Front.appendAnswer] can write the answer.
func isUsual(c *serving.Call) bool {
	return c.Err == nil && c.Response.Format != serving.Full && contentTypes[c.Response.Format] != nil
}

// rendered keeps what a handler answers, to be written in one piece.
type rendered struct {
	header http.Header
	status int
	body   []byte
}

// Header implements http.ResponseWriter.
func (r *rendered) Header() http.Header { return r.header }

// WriteHeader implements http.ResponseWriter.
func (r *rendered) WriteHeader(status int) {
	if r.status == 0 {
		r.status = status
	}
}

// Write implements http.ResponseWriter. It keeps p as it is.
func (r *rendered) Write(p []byte) (int, error) {
	r.WriteHeader(http.StatusOK)
	if r.body == nil {
		r.body = p
	} else {
		r.body = append(r.body[:len(r.body):len(r.body)], p...)
	}
	return len(p), nil
}

// appendHead appends the head of the answer.
func (r *rendered) appendHead(buf []byte, date *dateText, now time.Time, last bool) []byte {
	r.WriteHeader(http.StatusOK)
	buf = strconv.AppendInt(append(buf, "HTTP/1.1 "...), int64(r.status), 10)
	buf = append(buf, ' ')
	if text := http.StatusText(r.status); text != "" {
		buf = append(buf, text...)
	} else {
		buf = strconv.AppendInt(append(buf, "status code "...), int64(r.status), 10)
	}
	buf = append(buf, "\r\n"...)
	_, typed := r.header["Content-Type"]
	if !typed && r.header.Get("Content-Encoding") == "" && len(r.body) > 0 && allowsBody(r.status) {
		r.header.Set("Content-Type", http.DetectContentType(r.body))
	}
	if _, dated := r.header["Date"]; !dated {
		buf = append(date.append(append(buf, "Date: "...), now), "\r\n"...)
	}
	if _, sized := r.header["Content-Length"]; !sized && allowsBody(r.status) {
		r.header.Set("Content-Length", strconv.Itoa(len(r.body)))
	}
	if last {
		r.header.Set("Connection", "close")
	}
	to := appender(buf)
	_ = r.header.Write(&to) // an appender does not fail
	return append(to, "\r\n"...)
}

// appender is a slice that can be written to.
type appender []byte

// Write implements io.Writer.
func (a *appender) Write(p []byte) (int, error) {
	*a = append(*a, p...)
	return len(p), nil
}

// WriteString implements io.StringWriter.
func (a *appender) WriteString(s string) (int, error) {
	*a = append(*a, s...)
	return len(s), nil
}

// dateText keeps the header Date of the current second.
type dateText struct{ current atomic.Pointer[secondText] }

type secondText struct {
	second int64
	text   string
}

func (d *dateText) append(buf []byte, now time.Time) []byte {
	second, at := now.Unix(), d.current.Load()
	if at == nil || at.second != second {
		at = &secondText{second, now.UTC().Format(http.TimeFormat)}
		d.current.Store(at)
	}
	return append(buf, at.text...)
}

// appendServerTiming tells how long the query waited and was computed, in
// milliseconds, and how its batch came about.
func appendServerTiming(buf []byte, t batch.Trip) []byte {
	buf = append(buf, "queue;dur="...)
	buf = appendMilliseconds(buf, t.Queued)
	buf = append(buf, ", compute;dur="...)
	buf = appendMilliseconds(buf, t.Computed)
	buf = append(buf, `, batch;desc="size=`...)
	buf = strconv.AppendInt(buf, int64(t.BatchSize), 10)
	buf = append(buf, " reason="...)
	buf = append(buf, t.Reason.String()...)
	buf = append(buf, " id="...)
	buf = strconv.AppendUint(buf, t.BatchID, 10)
	if t.Attempts > 1 {
		buf = append(buf, " attempts="...)
		buf = strconv.AppendInt(buf, int64(t.Attempts), 10)
	}
	return append(buf, '"')
}

// appendMilliseconds appends a duration as milliseconds with three decimals.
func appendMilliseconds(buf []byte, d time.Duration) []byte {
	micros := max(0, d.Microseconds())
	buf = strconv.AppendInt(buf, micros/1000, 10)
	rest := micros % 1000
	return append(buf, '.', byte('0'+rest/100), byte('0'+rest/10%10), byte('0'+rest%10))
}

// poisoned makes memory that is given back unreadable, for tests.
var poisoned atomic.Bool

func poison(buf []byte) {
	for i := range buf {
		buf[i] = '!'
	}
}
