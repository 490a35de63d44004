package wire_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/shoalserve/shoal/internal/wire"
)

// stated is a frame that says it has n bytes and has those of body.
func stated(n uint32, body string) io.Reader {
	frame := binary.LittleEndian.AppendUint32(nil, n)
	return strings.NewReader(string(append(frame, byte(wire.Query))) + body)
}

func TestALengthThatIsOnlyStatedTakesLittleMemory(t *testing.T) {
	const most = 4 << 20
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, _, err := wire.Read(stated(wire.MaxFrame, "ten bytes."))
	runtime.ReadMemStats(&after)
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("got %v", err)
	}
	if took := after.TotalAlloc - before.TotalAlloc; took > most {
		t.Errorf("it took %d bytes, at most %d are fine", took, most)
	}
}

func TestMemoryIsAskedForAsBytesCome(t *testing.T) {
	body := bytes.Repeat([]byte("0123456789abcdef"), 1<<17) // 2 MiB
	asked := 0
	hold := func(more int) error { asked += more; return nil }
	got, n, err := wire.ReadBytes(iotest.HalfReader(bytes.NewReader(body)), len(body), hold)
	if err != nil || n != len(body) || !bytes.Equal(got, body) {
		t.Errorf("%d of %d bytes came, %v", n, len(body), err)
	}
	if want := len(body) - 1<<20; asked != want {
		t.Errorf("asked for %d bytes beyond the first MiB, want %d", asked, want)
	}
	full := errors.New("no room")
	if _, _, err := wire.ReadBytes(bytes.NewReader(body), len(body), func(int) error { return full }); !errors.Is(err, full) {
		t.Errorf("got %v", err)
	}
	if _, _, err := wire.ReadBytes(bytes.NewReader(body[:100]), len(body), func(int) error { return full }); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("asked for memory before there was a use for it: %v", err)
	}
}

func TestFramesThatCannotBeAreRefused(t *testing.T) {
	for _, n := range []uint32{0, wire.MaxFrame + 1, 1<<32 - 1} {
		if _, _, err := wire.Read(stated(n, "body")); !errors.Is(err, wire.ErrTooLong) {
			t.Errorf("a frame of %d bytes: %v", n, err)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte{1, 0, 0, 0, 16})
	f.Add([]byte{3, 0, 0, 0, 16, 'a', 'b', 9})
	f.Add([]byte{255, 255, 255, 255, 16})
	f.Fuzz(func(t *testing.T, stream []byte) {
		r := bytes.NewReader(stream)
		kind, body, err := wire.Read(r)
		if err != nil {
			return
		}
		frame := append(wire.Begin(nil, kind), body...)
		if err := wire.End(frame, 0, 0); err != nil {
			t.Fatal(err)
		}
		if used := stream[:len(stream)-r.Len()]; !bytes.Equal(frame, used) {
			t.Errorf("read %x, which is written as %x", used, frame)
		}
	})
}
