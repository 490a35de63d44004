package admin

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/shoalserve/shoal/internal/serving"
	"github.com/shoalserve/shoal/internal/wire"
)

func TestQueriesOfOneFrameAreAnsweredEachForItself(t *testing.T) {
	s := serve(t, Options{})
	b := newFake("m")
	s.deploy(t, b)
	l := s.link(t)
	refs, payloads := []uint64{9, 3, 5}, []string{"nine", "", "five"}
	l.send(t, askTogether(nil, refs, 0, "e", "predict", "key", "{}", payloads))
	calls := make([]*serving.Call, len(refs))
	for i := range calls {
		calls[i] = next(t, b.held)
		if c := calls[i]; string(c.Args.Payload) != payloads[i] || string(c.Args.Head) != "{}" || c.Method != "predict" || c.ShardKey != "key" {
			t.Errorf("call %d is %+v", i, c)
		}
	}
	for _, i := range []int{2, 0, 1} {
		b.release(calls[i], serving.Response{Format: serving.Text, Body: []byte(payloads[i])}, nil)
		if ref, code, payload := l.answer(t); ref != refs[i] || code != 2 || payload != payloads[i] {
			t.Errorf("got %d, %d, %q, want the answer to %d", ref, code, payload, refs[i])
		}
	}
}

func TestQueriesOfOneFrameEndApart(t *testing.T) {
	s := serve(t, Options{})
	b := newFake("m")
	s.deploy(t, b)
	l := s.link(t)
	l.send(t, askTogether(nil, []uint64{1, 2, 3}, 3*time.Second, "e", "", "", "", []string{"", "", ""}))
	first := next(t, b.held)
	b.release(first, serving.Response{Format: serving.JSON}, nil)
	if ref, code, _ := l.answer(t); ref != 1 || code != 1 {
		t.Errorf("got the answer to %d with code %d", ref, code)
	}
	next(t, b.held)
	next(t, b.held)
	l.send(t, cancelFrame(2))
	l.wantRefusal(t, 2, serving.Canceled)
	l.wantRefusal(t, 3, serving.DeadlineExceeded)
	for range 2 { // the canceled one and the one whose time was over
		next(t, b.withdrawn)
	}
	s.mustHaveNothingOpen(t)
}

// mustHaveNothingOpen checks that the links wait for no answer.
func (s *server) mustHaveNothingOpen(t *testing.T) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	for l := range s.links {
		l.mu.Lock()
		if len(l.pending) > 0 {
			t.Errorf("%d queries are pending", len(l.pending))
		}
		l.mu.Unlock()
	}
}

// Where the backends of an endpoint have times of their own, one frame's
// queries end at different moments.
func TestOneFramesQueriesOnSeveralBackends(t *testing.T) {
	s := serve(t, Options{})
	quick, slow := newFake("quick"), newFake("slow")
	quick.config.Timeout, slow.config.Timeout = serving.Duration(5*time.Millisecond), serving.Duration(60*time.Millisecond)
	s.deploy(t, quick)
	if _, err := s.registry.Deploy(t.Context(), "slow", false, func(context.Context) (serving.Backend, error) { return slow, nil }); err != nil {
		t.Fatal(err)
	}
	if err := s.registry.SetTraffic("e", map[string]float64{"quick": 0.5, "slow": 0.5}); err != nil {
		t.Fatal(err)
	}
	l := s.link(t)
	const n = 64
	refs, payloads := make([]uint64, n), make([]string, n)
	for i := range refs {
		refs[i] = uint64(i)
	}
	l.send(t, askTogether(nil, refs, 0, "e", "", "", "", payloads))
	after := make(map[string]int)
	for range n {
		_, object, _ := l.refusal(t)
		after[object.Message[strings.LastIndex(object.Message, " ")+1:]]++
	}
	if len(after) != 2 || after["5ms"]+after["60ms"] != n {
		t.Errorf("queries ended after %v", after)
	}
	s.mustHaveNothingOpen(t)
}

func TestWhatIsWrongWithAFrameOfQueriesIsSaidToAll(t *testing.T) {
	s := serve(t, Options{})
	s.deploy(t, newFake("m"))
	l := s.link(t)
	l.send(t, askTogether(nil, []uint64{1, 2}, 0, "nope", "", "", "", []string{"", ""}))
	l.wantRefusal(t, 1, serving.EndpointNotFound)
	l.wantRefusal(t, 2, serving.EndpointNotFound)
	l.send(t, askTogether(nil, []uint64{7, 7}, 0, "e", "", "", "", []string{"", ""}))
	l.wantEnd(t)
}

func TestSmallAnswersShareAFrameAndLargeOnesDoNot(t *testing.T) {
	var o outbox
	for ref := range uint64(100) {
		size := int(ref)
		if ref%10 == 0 {
			size = alone + int(ref)*loose/50
		}
		o.answer(ref, 3, []byte(strings.Repeat("x", size)))
	}
	var b burst
	waiting := o.waiting
	o.take(&b)
	var stream strings.Builder
	for _, piece := range append(b.pieces, b.tail) {
		stream.Write(piece)
	}
	if stream.Len() != waiting || b.size != waiting {
		t.Errorf("%d bytes were counted, %d waited", waiting, stream.Len())
	}
	in, frames, seen := strings.NewReader(stream.String()), 0, make(map[string]bool)
	for in.Len() > 0 {
		kind, body, err := wire.Read(in)
		if err != nil || kind != wire.Answer {
			t.Fatalf("kind %d, %v", kind, err)
		}
		answers, err := parseAnswers(body)
		if err != nil {
			t.Fatal(err)
		}
		frames++
		for _, a := range answers {
			if len(a.payload) >= alone && len(answers) > 1 {
				t.Errorf("the answer to %d with %d bytes shares a frame", a.ref, len(a.payload))
			}
			seen[fmt.Sprint(a.ref)] = true
		}
	}
	if frames != 11 || len(seen) != 100 {
		t.Errorf("%d answers in %d frames", len(seen), frames)
	}
}
