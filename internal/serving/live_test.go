package serving_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shoalserve/shoal/batch"
	"github.com/shoalserve/shoal/internal/serving"
)

// company is a backend in virtual time that computes batches of two.
type company struct {
	*testing.T
	serving.Backend
	log    *bytes.Buffer
	closed bool
}

func (c *company) close() {
	if !c.closed {
		c.closed = true
		if err := c.Close(c.Context()); err != nil {
			c.Error(err)
		}
	}
}

// inCompany runs a test on a backend of a model that answers in JSON.
func inCompany(t *testing.T, fn batch.Func[string, string], config serving.Config, test func(*company)) {
	synctest.Test(t, func(t *testing.T) {
		config.MaxBatchSize, config.BatchWaitTimeout = 2, serving.Duration(time.Second)
		log := &bytes.Buffer{}
		m := &model{fn: fn, format: serving.JSON, log: slog.New(slog.NewTextHandler(log, nil))}
		b, err := m.build("m:v1", config)(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		c := &company{T: t, Backend: b, log: log}
		test(c)
		c.close()
	})
}

// ask has queries computed, in batches of two, and waits until those that are computed
// again are.
func (c *company) ask(in ...string) {
	c.Helper()
	for _, in := range in {
		call := &serving.Call{Origin: batch.API, Args: serving.Args{Payload: []byte(in)}, Done: func(*serving.Call) {}}
		if err := c.Submit(call); err != nil {
			c.Fatal(err)
		}
	}
	time.Sleep(time.Minute)
	synctest.Wait()
}

// want compares the counts.
func (c *company) want(same, different, skipped, failed uint64) {
	c.Helper()
	s := c.Status().Verified
	got, want := [...]uint64{s.Same, s.Different, s.Skipped, s.Failed}, [...]uint64{same, different, skipped, failed}
	if got != want {
		c.Errorf("same, different, skipped, failed are %v, want %v", got, want)
	}
}

// ofSize is a model whose answers are the sizes of their batches.
func ofSize(_ context.Context, in []string) ([]string, error) {
	out := make([]string, len(in))
	for i := range in {
		out[i] = fmt.Sprintf(`{"secret": %q, "n": %d}`, in[i], len(in))
	}
	return out, nil
}

func TestALiveQueryWhoseAnswerDependsOnItsCompanyIsFound(t *testing.T) {
	inCompany(t, ofSize, serving.Config{VerifyOneIn: 1}, func(c *company) {
		c.ask("hunter2", "hunter3")
		c.want(0, 2, 0, 0)
		s := c.Status().Verified
		if want := "n: 2, and 1"; s.LargestDifference != 1 || len(s.Samples) != 2 || s.Samples[0] != want {
			t.Errorf("the status is %+v", s)
		}
		said := c.log.String()
		if strings.Count(said, "another answer") != 1 || !strings.Contains(said, `difference="n: 2, and 1"`) {
			t.Errorf("the log has not one line that says how they differ:\n%s", said)
		}
		c.ask("hunter2", "hunter3")
		if n := strings.Count(c.log.String(), "another answer"); n != 2 {
			t.Errorf("after a minute the log has %d lines", n)
		}
	})
}

func TestDifferencesOfTextsAreToldWithoutTheTexts(t *testing.T) {
	leaks := func(_ context.Context, in []string) ([]string, error) {
		if len(in) == 1 {
			return []string{`["hunter2", true]`}, nil
		}
		return []string{`["hunter3", true]`, `["hunter2", {"hunter4": 1}]`}, nil
	}
	inCompany(t, leaks, serving.Config{VerifyOneIn: 1}, func(c *company) {
		c.ask("a", "b")
		c.want(0, 2, 0, 0)
		told := fmt.Sprint(c.Status().Verified.Samples, c.log)
		if strings.Contains(told, "hunter") {
			t.Errorf("it tells %s", told)
		}
		if want := "[0: a text of 7 bytes, and another 1: an object of 1, and true]"; !strings.HasPrefix(told, want) {
			t.Errorf("it tells %s, want %s", told, want)
		}
	})
}

func TestLiveQueriesAreTheSameWhereTheyShouldBe(t *testing.T) {
	inCompany(t, says("").fn, serving.Config{VerifyOneIn: 1}, func(c *company) {
		c.ask("1", "[2]", "3")
		c.want(2, 0, 0, 0) // the third had no company
		if n := c.Status().Stats.Admitted; n != 5 {
			t.Errorf("%d queries were admitted, want 5 with those that were computed again", n)
		}
	})
	inCompany(t, ofSize, serving.Config{VerifyOneIn: 1, VerifyCompare: &serving.Compare{Ignore: []string{"n"}}}, func(c *company) {
		c.ask("a", "b")
		c.want(2, 0, 0, 0)
	})
	inCompany(t, ofSize, serving.Config{}, func(c *company) {
		c.ask("a", "b")
		c.want(0, 0, 0, 0)
		if n := c.Status().Stats.Admitted; n != 2 {
			t.Errorf("%d queries were admitted, want 2", n)
		}
	})
}

func TestAboutOneLiveQueryInNIsVerified(t *testing.T) {
	inCompany(t, says("").fn, serving.Config{VerifyOneIn: 10}, func(c *company) {
		for range 1000 {
			c.ask("1", "2")
		}
		s := c.Status().Verified
		if s.Same < 100 || s.Same > 320 { // 200 ± 13; 1 in 10^11 runs is out
			t.Errorf("of 2000 queries %d were verified", s.Same)
		}
	})
}

func TestErrorsOfTheModelAreComparedToo(t *testing.T) {
	unlucky := errors.New("unlucky")
	model := func(_ context.Context, in []string) ([]string, error) {
		if len(in) == 1 {
			return in, nil
		}
		return in, batch.ItemErrors{unlucky, nil}
	}
	inCompany(t, model, serving.Config{VerifyOneIn: 1}, func(c *company) {
		c.ask("1", "2")
		c.want(1, 1, 0, 0)
	})
}

func TestAQueryThatCannotBeComputedAloneIsAFailure(t *testing.T) {
	inCompany(t, func(ctx context.Context, in []string) ([]string, error) {
		if len(in) == 1 {
			<-ctx.Done()
			return nil, context.Cause(ctx)
		}
		return in, nil
	}, serving.Config{VerifyOneIn: 1, BatchTimeout: serving.Duration(time.Second)}, func(c *company) {
		c.ask("1", "2")
		c.want(0, 0, 0, 2)
	})
}

func TestABusyBackendSkipsWhatItWouldComputeAgain(t *testing.T) {
	slow := func(_ context.Context, in []string) ([]string, error) {
		if in[0] == "3" {
			time.Sleep(10 * time.Second)
		}
		return in, nil
	}
	inCompany(t, slow, serving.Config{VerifyOneIn: 1}, func(c *company) {
		c.ask("1", "2", "3", "4") // the first two are answered, and for long no replica is idle
		c.want(2, 0, 2, 0)
	})
}

func TestMoreThanIsKeptIsSkipped(t *testing.T) {
	inCompany(t, says("").fn, serving.Config{VerifyOneIn: 1}, func(c *company) {
		c.ask(`"`+strings.Repeat("x", 2<<20)+`"`, "2")
		c.want(1, 0, 1, 0)
	})
}

func TestABackendThatIsClosedSkipsWhatItWouldComputeAgain(t *testing.T) {
	inCompany(t, says("").fn, serving.Config{VerifyOneIn: 1}, func(c *company) {
		done := make(chan struct{}, 2)
		for range 2 {
			call := &serving.Call{Origin: batch.API, Args: serving.Args{Payload: []byte("1")}, Done: func(*serving.Call) { done <- struct{}{} }}
			if err := c.Submit(call); err != nil {
				t.Fatal(err)
			}
		}
		<-done
		<-done
		c.close()
		c.want(0, 0, 2, 0)
	})
}

func TestConfigsThatCannotBeVerifiedAreRefused(t *testing.T) {
	for raw, want := range map[string]string{
		`{"verify_one_in": -1}`:                          "verify_one_in must not be negative, got -1; 0 means that no query is verified",
		`{"verify_one_in": 5, "on_batch_error": "fail"}`: `verify_one_in computes queries a second time, which must not happen with on_batch_error "fail"; set one of them`,
		`{"verify_one_in": "x"}`:                         `verify_one_in must be a whole number, not "x"`,
		`{"verify_compare": {"tolerance": -1}}`:          "verify_compare: tolerance must not be negative, got -1",
		`{"verify_compare": {"tolerances": 1}}`:          `verify_compare: unknown field "tolerances"`,
		`{"verify_compare": {"tolerance": "x"}}`:         "verify_compare: tolerance cannot be a string",
		`{"verify_compare": 5}`:                          "verify_compare: it cannot be a number",
	} {
		_, err := serving.DecodeConfig(serving.Config{}, []byte(raw))
		wantCode(t, err, serving.InvalidArgument)
		if err == nil || err.Error() != "config: "+want {
			t.Errorf("%s: %v, want %s", raw, err, want)
		}
	}
	base, err := serving.DecodeConfig(serving.Config{}, []byte(`{"verify_compare": {"tolerance": 0.1, "ignore": ["a"]}}`))
	if err != nil {
		t.Fatal(err)
	}
	next, err := serving.DecodeConfig(base, []byte(`{"verify_compare": {"top_k": 3}}`))
	if err != nil || next.VerifyCompare.Ignore != nil || base.VerifyCompare.TopK != 0 {
		t.Errorf("%+v, %v: it is replaced as a whole, and nobody else's changes", next.VerifyCompare, err)
	}
}
