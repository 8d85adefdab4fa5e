// Package battery does to the real daemon what peers, the network and
// operators will do to it. A healthy pair exchanges frames next to each
// attack; that it does not notice is what counts. Doses are small, so that
// all of it takes seconds; BATTERY=1 in the environment makes them large.
// docs/reliability.md has the table.
package battery

import (
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// large asks for the doses that take minutes.
var large = os.Getenv("BATTERY") != ""

// dose chooses by how much time there is.
func dose[T any](small, big T) T {
	if large {
		return big
	}
	return small
}

// given tells the dose: make battery makes a table of it.
func given(t *testing.T, format string, args ...any) {
	t.Helper()
	t.Logf("dose: "+format, args...)
}

// patience bounds every wait of these tests; none ends by it.
const patience = 20 * time.Second

// slack is how much later than its deadline a thing may end on a machine that
// is busy with other tests.
const slack = 5 * time.Second

// parallel lets a test that mostly waits run next to others; not with large
// doses, where the healthy pair of each is to be judged by itself.
func parallel(t *testing.T) {
	if !large {
		t.Parallel()
	}
}

// asRelay in the environment makes the test binary be a relay, for tests that
// need a process of their own.
const asRelay = "BE_A_RELAY"

func TestMain(m *testing.M) {
	if os.Getenv(asRelay) != "" {
		beRelay()
		return
	}
	if os.Getenv(asAttacker) != "" {
		beAttacker()
	}
	_ = os.Setenv("PEBBLE_VA_NOSLEEP", "1") // the authority checks at once
	goleak.VerifyTestMain(m,
		// net/http waits half a second before it closes a connection on which
		// it answered before it had read all; no server waits for that.
		goleak.IgnoreAnyFunction("net/http.(*conn).closeWriteAndWait"),
		goleak.IgnoreAnyFunction("github.com/letsencrypt/pebble/v2/va.VAImpl.processTasks")) // it has no end
}
