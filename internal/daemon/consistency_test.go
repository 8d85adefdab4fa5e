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
			agree   bool
			counted int
		}{
			{0, errors.New("gauges differ"), true, 1},
			{59 * time.Second, errors.New("gauges differ"), true, 1},
			{time.Second, nil, false, 2},
			{time.Minute, nil, true, 3},
		} {
			time.Sleep(step.wait)
			synctest.Wait()
			mu.Lock()
			if err := c.err(); (err == nil) != step.agree || counted != step.counted {
				t.Errorf("after %v: %v, counted %d times; want agreement %t, %d", step.wait, err, counted, step.agree, step.counted)
			}
			wrong = step.wrong
			mu.Unlock()
		}
	})
}
