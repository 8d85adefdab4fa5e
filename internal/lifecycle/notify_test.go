package lifecycle

import (
	"strconv"
	"testing"

	"github.com/pyrycode/pyrycode-relay/internal/relay"
)

func TestASupervisorThatDoesNotReadHoldsUpNobody(t *testing.T) {
	release, sent := make(chan struct{}), make(chan string, 2*notifyQueue)
	tell := NewNotifier(relay.Runtime{}, func(state string) {
		<-release
		sent <- state
	})
	const all = 2 * notifyQueue
	for i := range all {
		tell(strconv.Itoa(i)) // returns
	}
	close(release)
	want := []int{0} // was being sent
	for i := all - notifyQueue; i < all; i++ {
		want = append(want, i)
	}
	for _, n := range want {
		if got := <-sent; got != strconv.Itoa(n) {
			t.Fatalf("it sends %s; want %d: the newest, in order", got, n)
		}
	}
	tell("after")
	if got := <-sent; got != "after" {
		t.Errorf("then it sends %q; want what came after the queue was empty", got)
	}
}

func TestOneStateForTheWatchdogWaitsAtATime(t *testing.T) {
	release, sent := make(chan struct{}), make(chan string, notifyQueue)
	tell := NewNotifier(relay.Runtime{}, func(state string) {
		<-release
		sent <- state
	})
	for _, state := range []string{"WATCHDOG=1\nSTATUS=1", "WATCHDOG=1\nSTATUS=2", "WATCHDOG=1\nSTATUS=3", "STOPPING=1"} {
		tell(state)
	}
	close(release)
	for _, want := range []string{"WATCHDOG=1\nSTATUS=1", "WATCHDOG=1\nSTATUS=2", "STOPPING=1"} {
		if got := <-sent; got != want {
			t.Errorf("it sends %q; want %q", got, want)
		}
	}
}
