package rest

import (
	"net/http"
	"strconv"

	"github.com/shoalserve/shoal/internal/front/problem"
	"github.com/shoalserve/shoal/internal/serving"
)

// Content types of answers, as header values that all answers share.
var contentTypes = [256][]string{
	serving.JSON:  {"application/json"},
	serving.Text:  {"text/plain; charset=utf-8"},
	serving.Bytes: {"application/octet-stream"},
}

// respond writes the model's answer.
func (q *query) respond(w http.ResponseWriter, r *serving.Response) int {
	h := w.Header()
	q.set(h, "X-Request-Id", q.request.ID)
	status := http.StatusOK
	if r.Format == serving.Full {
		status = statusOf(r)
		problem.AddHeader(h, r.Header)
	} else {
		h["Content-Type"] = contentTypes[r.Format]
	}
	if allowsBody(status) {
		q.set(h, "Content-Length", strconv.Itoa(len(r.Body)))
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
