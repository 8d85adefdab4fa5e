package sim

import (
	"strings"
	"testing"

	"github.com/pyrycode/pyrycode-relay/sim/engine"
)

func TestParseRunComplainsByLine(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"nothing", "", "the line world <name> is missing"},
		{"no world", "b1 claim s1", "line 1: the first line must be: world"},
		{"unknown world", "world moon", `line 1: unknown world "moon"`},
		{"unknown verb", "world registry\nb1 dance s1", `line 2: "dance s1"`},
		{"unknown id", "world registry\nb1 claim s9", `line 2: "claim s9"`},
		{"labels fall", "world registry\nb1.2 claim s1\nb1.1 claim s1", "line 3: b1.1: labels"},
		{"no point", "world registry\nat b1.1 run b2", `line 2: "b1.1" names no point`},
		{"no yield point", "world registry\nat b1.1@moon1 run b2", `line 2: "b1.1@moon1" names no point`},
		{"no task", "world registry\nat b1.1@lock1 run b1.2", `line 2: "b1.2" names no task`},
		{"no actor", "world registry\nb1/x claim s1", `line 2: "b1/x" names no actor`},
		{"no number", "world registry\nset max-phones many", "line 2"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Parse(tt.text)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v; want %s", err, tt.want)
			}
		})
	}
}

func TestReplayGoesOnWhereItCannotFollow(t *testing.T) {
	r, err := Parse("world registry\nb1 claim s1\n  at b1.1@lock1 run b9\n  at b1.7@lock1 run b1\nb1 release s1\n")
	if err != nil {
		t.Fatal(err)
	}
	x := engine.Runner{World: registryWorld{}}
	res := x.Replay(r)
	if res.Failure != nil || res.Missed != 1 || res.Unused != 1 {
		t.Errorf("failure %v, missed %d, unused %d; want none, 1, 1", res.Failure, res.Missed, res.Unused)
	}
}
