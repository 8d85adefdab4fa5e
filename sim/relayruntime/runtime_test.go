package relayruntime

import (
	"strings"
	"testing"
	"time"

	"github.com/pyrycode/pyrycode-relay/sim/engine"
)

func TestClockForbidsWhatCannotBeOrdered(t *testing.T) {
	w := engine.FuncWorld("sleep", func(e *engine.Run) { NewClock(e).Sleep(time.Second) })
	x := engine.Runner{World: w}
	res := x.Replay(w.Plan(nil, false))
	if res.Failure == nil || !strings.Contains(res.Failure.Detail, onlyAfterFunc) {
		t.Errorf("got %v; want %s", res.Failure, onlyAfterFunc)
	}
}
