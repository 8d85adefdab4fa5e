package daemon

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestTheBooksAreCountedOnceAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex // guards both
		var counted int
		var wrong error
		c := newConsistency(func() error {
			mu.Lock()
			defer mu.Unlock()
			counted++
			return wrong
		})
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		go c.watch(ctx)
		for _, step := range []struct {
			wait    time.Duration
			wrong   error // when it is next counted
			value   float64
			counted int
		}{
			{0, errors.New("gauges differ"), 1, 1},
			{59 * time.Second, errors.New("gauges differ"), 1, 1},
			{time.Second, nil, 0, 2},
			{time.Minute, nil, 1, 3},
		} {
			time.Sleep(step.wait)
			synctest.Wait()
			mu.Lock()
			if got := c.value(); got != step.value || counted != step.counted {
				t.Errorf("after %v: value %v, counted %d times; want %v, %d", step.wait, got, counted, step.value, step.counted)
			}
			wrong = step.wrong
			mu.Unlock()
		}
	})
}
