package daemon

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

func newLost() prometheus.Counter {
	return prometheus.NewCounter(prometheus.CounterOpts{Name: "lost"})
}

// The number of lines over the limit is logged without a further line that would
// bring it along.
func TestComplaintsOfAServerAreBoundedAndCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out syncBuffer
		lost := newLost()
		l := newErrorLog(newLogger(&out, "text", slog.LevelInfo), "public", lost)
		const lines = 1000
		for range lines {
			l.Print("http: a client did something odd")
		}
		if n := strings.Count(out.String(), "something odd"); n != complaintsAtOnce {
			t.Errorf("%d lines of %d came through; want %d", n, lines, complaintsAtOnce)
		}
		time.Sleep(complaintsReport)
		synctest.Wait()
		if n := strings.Count(out.String(), "lines left out"); n != 1 || !strings.Contains(out.String(), fmt.Sprintf("count=%d", lines-complaintsAtOnce)) {
			t.Errorf("the log says %d times that %d lines were left out; want once:\n%s", n, lines-complaintsAtOnce, out.String())
		}
		var m dto.Metric
		if err := lost.Write(&m); err != nil || m.GetCounter().GetValue() != lines-complaintsAtOnce {
			t.Errorf("%v lines are counted, %v; want %d", m.GetCounter().GetValue(), err, lines-complaintsAtOnce)
		}
	})
}

func TestOneComplaintIsBounded(t *testing.T) {
	var out bytes.Buffer
	newErrorLog(newLogger(&out, "json", slog.LevelInfo), "public", newLost()).Print(strings.Repeat("x", 1<<20) + "\n")
	var line struct{ Level, Server, Err string }
	if err := json.Unmarshal(out.Bytes(), &line); err != nil {
		t.Fatal(err)
	}
	if line.Level != "WARN" || line.Server != "public" || !strings.HasSuffix(line.Err, "… (1040384 bytes more)") || len(line.Err) > maxComplaint+40 {
		t.Errorf("got %s of %s, %d bytes ending in %q", line.Level, line.Server, len(line.Err), line.Err[len(line.Err)-30:])
	}
}

func TestLogLevelHolds(t *testing.T) {
	levels := []string{"debug", "info", "warn", "error"}
	for i, level := range levels {
		var out bytes.Buffer
		least := new(slog.LevelVar)
		if err := least.UnmarshalText([]byte(level)); err != nil {
			t.Fatal(err)
		}
		l := newLogger(&out, "text", least)
		l.Debug("x")
		l.Info("x")
		l.Warn("x")
		l.Error("x")
		if got, want := strings.Count(out.String(), "\n"), len(levels)-i; got != want {
			t.Errorf("level %s: %d lines; want %d", level, got, want)
		}
	}
}
