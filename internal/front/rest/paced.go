package rest

import (
	"net/http"
	"time"
)

// pacedChunk is how much of an answer a client must take within WriteTimeout.
const pacedChunk = 1 << 20

// paced is a ResponseWriter of net/http's whose client must take what is written: slow
// is allowed, stuck is not. It is what the loops do with WriteTimeout.
type paced struct {
	http.ResponseWriter
	control *http.ResponseController
	timeout time.Duration
}

// servePaced is serveHTTP for the Front's own server, whose connections are its own.
func (f *Front) servePaced(w http.ResponseWriter, r *http.Request) {
	p := &paced{w, http.NewResponseController(w), f.opts.WriteTimeout}
	// In HTTP/1 a deadline stays with the connection from one request to the next.
	_ = p.control.SetWriteDeadline(time.Time{})
	defer p.extend() // for what net/http itself flushes
	f.serveHTTP(p, r)
}

func (p *paced) extend() { _ = p.control.SetWriteDeadline(time.Now().Add(p.timeout)) }

// Write implements http.ResponseWriter.
func (p *paced) Write(body []byte) (n int, err error) {
	for {
		chunk := body[n:min(n+pacedChunk, len(body))]
		p.extend()
		written, err := p.ResponseWriter.Write(chunk)
		if n += written; err != nil || n == len(body) {
			return n, err
		}
	}
}

// Unwrap lets an [http.ResponseController] find what is beneath.
func (p *paced) Unwrap() http.ResponseWriter { return p.ResponseWriter }
