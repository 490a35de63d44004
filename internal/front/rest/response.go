package rest

import (
	"net/http"
	"strconv"
	"time"

	"github.com/shoalserve/shoal/batch"
	"github.com/shoalserve/shoal/internal/front/problem"
	"github.com/shoalserve/shoal/internal/serving"
)

// Content types of answers, as header values that all answers share.
var contentTypes = map[serving.Format][]string{
	serving.JSON:  {"application/json"},
	serving.Text:  {"text/plain; charset=utf-8"},
	serving.Bytes: {"application/octet-stream"},
}

// respond writes the model's answer.
func (x *exchange) respond(w http.ResponseWriter) int {
	r, h := &x.call.Response, w.Header()
	x.set(h, "X-Request-Id", x.request.ID)
	status := http.StatusOK
	if r.Format == serving.Full {
		status = statusOf(r)
		problem.AddHeader(h, r.Header)
	} else {
		h["Content-Type"] = contentTypes[r.Format]
	}
	if allowsBody(status) {
		x.set(h, "Content-Length", strconv.Itoa(len(r.Body)))
	}
	if status != http.StatusOK {
		w.WriteHeader(status)
	}
	if allowsBody(status) {
		_, _ = w.Write(r.Body) // a client that is gone cannot be told so
	}
	return status
}

// statusOf returns the status of a Full answer, if it is that of an answer.
func statusOf(r *serving.Response) int {
	switch {
	case r.Status == 0:
		return http.StatusOK
	case r.Status < 200 || r.Status > 599:
		return http.StatusInternalServerError
	}
	return r.Status
}

func allowsBody(status int) bool {
	return status != http.StatusNoContent && status != http.StatusNotModified
}

// serverTiming tells how long the query waited and was computed, in
// milliseconds, and how its batch came about.
func serverTiming(t batch.Trip) string {
	var array [128]byte
	buf := append(array[:0], "queue;dur="...)
	buf = appendMilliseconds(buf, t.Queued)
	buf = append(buf, ", compute;dur="...)
	buf = appendMilliseconds(buf, t.Computed)
	buf = append(buf, `, batch;desc="size=`...)
	buf = strconv.AppendInt(buf, int64(t.BatchSize), 10)
	buf = append(buf, " reason="...)
	buf = append(buf, t.Reason.String()...)
	buf = append(buf, " id="...)
	buf = strconv.AppendUint(buf, t.BatchID, 10)
	buf = append(buf, '"')
	return string(buf)
}

// appendMilliseconds appends a duration as milliseconds with three decimals.
func appendMilliseconds(buf []byte, d time.Duration) []byte {
	micros := max(0, d.Microseconds())
	buf = strconv.AppendInt(buf, micros/1000, 10)
	rest := micros % 1000
	return append(buf, '.', byte('0'+rest/100), byte('0'+rest/10%10), byte('0'+rest%10))
}
