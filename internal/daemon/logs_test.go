package daemon

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"strings"
	"testing"
)

func TestComplaintsOfAServerAreBounded(t *testing.T) {
	var out bytes.Buffer
	l := newErrorLog(newLogger(&out, "text", slog.LevelInfo), "public")
	for range 1000 {
		l.Print("http: a client did something odd")
	}
	if n := strings.Count(out.String(), "something odd"); n < complaintsAtOnce || n > complaintsAtOnce+complaintsPerSecond*10 {
		t.Errorf("%d lines of 1000 came through; want about %d", n, complaintsAtOnce)
	}
}

func TestOneComplaintIsBounded(t *testing.T) {
	var out bytes.Buffer
	newErrorLog(newLogger(&out, "json", slog.LevelInfo), "public").Print(strings.Repeat("x", 1<<20) + "\n")
	var line struct{ Level, Server, Err string }
	if err := json.Unmarshal(out.Bytes(), &line); err != nil {
		t.Fatal(err)
	}
	if line.Level != "WARN" || line.Server != "public" || !strings.HasSuffix(line.Err, "… (1040384 bytes more)") || len(line.Err) > maxComplaint+40 {
		t.Errorf("got %s of %s, %d bytes ending in %q", line.Level, line.Server, len(line.Err), line.Err[len(line.Err)-30:])
	}
}

func TestLogLevelHolds(t *testing.T) {
	for i, level := range logLevels {
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
		if got, want := strings.Count(out.String(), "\n"), len(logLevels)-i; got != want {
			t.Errorf("level %s: %d lines; want %d", level, got, want)
		}
	}
}
