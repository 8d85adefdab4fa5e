package daemon

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func TestTheBooksAreCountedOnceAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var counted int
		var wrong error
		c := consistency{check: func() error { counted++; return wrong }}
		for _, step := range []struct {
			wait    time.Duration
			wrong   error
			value   float64
			counted int
		}{
			{0, nil, 1, 1},
			{59 * time.Second, errors.New("gauges differ"), 1, 1},
			{time.Second, errors.New("gauges differ"), 0, 2},
			{time.Minute, nil, 1, 3},
		} {
			time.Sleep(step.wait)
			wrong = step.wrong
			if got := c.value(); got != step.value || counted != step.counted {
				t.Errorf("at %v: value %v, counted %d times; want %v, %d", step, got, counted, step.value, step.counted)
			}
		}
	})
}
