package lifecycle

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/relay"
)

func TestALookThatOutlivesTheWatchdogSendsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		free, told := make(chan struct{}), 0
		w := StartWatchdog(relay.Runtime{}, time.Second, func() string { <-free; return "" }, func(state string) {
			if state != ping {
				t.Errorf("it sends %q; want %q", state, ping)
			}
			told++
		})
		time.Sleep(time.Second) // it looks now
		free <- struct{}{}
		time.Sleep(time.Second)
		synctest.Wait()
		if told != 1 {
			t.Errorf("%d states are sent; want 1: the second look has not returned", told)
		}
		w.Stop()
		close(free)
		time.Sleep(time.Minute)
		if told != 1 {
			t.Errorf("%d states are sent; want none after Stop", told-1)
		}
	})
}
