package rest

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/iotest"
)

func TestABodyThatIsOnlyAnnouncedTakesLittleMemory(t *testing.T) {
	body, err := readBody(iotest.DataErrReader(bytes.NewReader([]byte("begin"))), 1<<30)
	if !errors.Is(err, io.ErrUnexpectedEOF) || string(body) != "begin" || cap(body) > firstRoom {
		t.Errorf("got %q in %d bytes, %v", body, cap(body), err)
	}
}

func TestALargeBodyIsReadWhole(t *testing.T) {
	for _, n := range []int{1, firstRoom - 1, firstRoom, firstRoom + 1, 5 * firstRoom, 1 << 21} {
		sent := bytes.Repeat([]byte("abcdefg"), n/7+1)[:n]
		body, err := readBody(bytes.NewReader(append(sent[:n:n], "the next request"...)), n)
		if err != nil || !bytes.Equal(body, sent) || cap(body) != n {
			t.Errorf("%d bytes: got %d in %d, %v", n, len(body), cap(body), err)
		}
	}
}
