package batch_test

import (
	"flag"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	_ = flag.Set("rapid.checks", "2000") // rapid's own default is 100, gone in a blink
	goleak.VerifyTestMain(m)
}
