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
	for i := range 2 * notifyQueue {
		tell(strconv.Itoa(i)) // returns
	}
	close(release)
	for i := range notifyQueue {
		if got := <-sent; got != strconv.Itoa(i) {
			t.Fatalf("state %d is %s; want them in order", i, got)
		}
	}
	tell("after")
	if got := <-sent; got != "after" {
		t.Errorf("then it sends %q; want what came after the queue was empty", got)
	}
}
