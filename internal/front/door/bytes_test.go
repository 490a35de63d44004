package door

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/iotest"

	"github.com/shoalserve/shoal/internal/serving"
)

const firstRoom, firstGuess = 256 << 10, 4 << 10

func TestABodyThatIsOnlyAnnouncedTakesLittleMemory(t *testing.T) {
	arriving := NewBytes(1 << 30)
	body, held, err := arriving.Read(iotest.DataErrReader(bytes.NewReader([]byte("begin"))), 1<<30, firstRoom)
	if err != nil || string(body) != "begin" || cap(body) > firstRoom || held != cap(body) || arriving.Held() != int64(held) {
		t.Errorf("got %q in %d bytes, %d of which are counted, %v", body, cap(body), held, err)
	}
}

func TestALargeBodyIsReadWhole(t *testing.T) {
	for _, first := range []int{firstGuess, firstRoom} {
		for _, n := range []int{1, firstRoom - 1, firstRoom, firstRoom + 1, 5 * firstRoom, 1 << 21} {
			sent := bytes.Repeat([]byte("abcdefg"), n/7+1)[:n]
			body, held, err := NewBytes(1<<30).Read(bytes.NewReader(append(sent[:n:n], "the next request"...)), n, first)
			if err != nil || !bytes.Equal(body, sent) || cap(body) != n || held != n {
				t.Errorf("%d bytes: got %d in %d, %d counted, %v", n, len(body), cap(body), held, err)
			}
		}
	}
}

func TestABodyForWhichThereIsNoRoomIsReadNoFurther(t *testing.T) {
	arriving := NewBytes(2 << 20)
	from := bytes.NewReader(make([]byte, 10<<20))
	_, held, err := arriving.Read(from, 10<<20, firstRoom)
	if full := (&serving.Error{Code: serving.QueueFull}); !errors.Is(err, full) || arriving.Held() != int64(held) {
		t.Errorf("got %v, with %d of %d bytes counted", err, held, arriving.Held())
	}
	if read := from.Size() - int64(from.Len()); read > 2<<20 {
		t.Errorf("%d bytes were read", read)
	}
	if arriving.Give(held); arriving.Held() != 0 {
		t.Errorf("%d bytes stay counted", arriving.Held())
	}
	_, _, err = arriving.Read(io.MultiReader(bytes.NewReader(make([]byte, 10)), iotest.ErrReader(io.ErrUnexpectedEOF)), 1<<20, firstGuess)
	if err != io.ErrUnexpectedEOF { //nolint:errorlint // it is not wrapped
		t.Errorf("a body that breaks off: %v", err)
	}
}
