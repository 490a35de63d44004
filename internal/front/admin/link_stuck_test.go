package admin

import (
	"bufio"
	"bytes"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shoalserve/shoal/internal/auth"
	"github.com/shoalserve/shoal/internal/serving"
)

func TestALinkWhoseClientStopsReadingIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log syncBuffer
		f := New(Options{Registry: serving.NewRegistry(), Logger: slog.New(slog.NewTextHandler(&log, nil))})
		l := newLink(f, auth.NewIdentity("key", "alice", allowed))
		conn, client := net.Pipe()
		defer client.Close()
		l.conn, l.in = conn, bufio.NewReader(conn)
		l.wakeWriter() // it has the switch to send, which nobody reads
		l.serve()
		for _, want := range []string{"takes no answers", "key:alice"} {
			if !strings.Contains(log.String(), want) {
				t.Errorf("the log does not say %q: %s", want, &log)
			}
		}
	})
}

// A client has linkTimeout for each chunk, and not for all that there is.
func TestALinkWhoseClientReadsSlowlyGoesOn(t *testing.T) {
	large := bytes.Repeat([]byte("0123456789abcde"), 5*writeChunk/15+1)
	for name, sent := range map[string]outbox{
		"a large tail":   {tail: large},
		"a large piece":  {pieces: net.Buffers{[]byte("head"), large}},
		"many pieces":    {pieces: net.Buffers{large[:writeChunk-1], large[:2], large[:writeChunk], {}, large}, tail: []byte("tail")},
		"a small tail":   {tail: []byte("tail")},
		"a small piece":  {pieces: net.Buffers{[]byte("piece")}},
		"pieces and all": {pieces: net.Buffers{large}, tail: large},
	} {
		t.Run(name, func(t *testing.T) {
			want := append(bytes.Join(sent.pieces, nil), sent.tail...)
			synctest.Test(t, func(t *testing.T) {
				conn, client := net.Pipe()
				got := make(chan []byte, 1)
				go func() {
					var all bytes.Buffer
					for err := error(nil); err == nil; time.Sleep(linkTimeout - time.Second) {
						_, err = io.CopyN(&all, client, writeChunk)
					}
					got <- all.Bytes()
				}()
				var b burst
				sent.take(&b)
				if err := b.writeTo(conn); err != nil {
					t.Error(err)
				}
				_ = conn.Close()
				if !bytes.Equal(<-got, want) {
					t.Error("other bytes arrived")
				}
			})
		})
	}
}
