package sched

import (
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestYieldCallsTheLastFunctionFirst(t *testing.T) {
	Yield() // without one
	defer beforeYield.Store(nil)
	var calls []string
	OnYield(func() { calls = append(calls, "replaced") })
	OnYield(func() { calls = append(calls, "last") })
	Yield()
	Yield()
	if len(calls) != 2 || calls[0] != "last" || calls[1] != "last" {
		t.Errorf("called %q; want the last function, twice", calls)
	}
}
