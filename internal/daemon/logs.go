package daemon

import (
	"bytes"
	"fmt"
	"io"
	"log"
	"log/slog"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

var (
	logFormats = []string{"text", "json"}
	logLevels  = []string{"debug", "info", "warn", "error"}
)

// newLogger returns a log that writes records of at least level to w, in one of
// logFormats.
func newLogger(w io.Writer, format string, level slog.Leveler) *slog.Logger {
	opts := &slog.HandlerOptions{Level: level, ReplaceAttr: durationsAsText}
	if format == "json" {
		return slog.New(slog.NewJSONHandler(w, opts))
	}
	return slog.New(slog.NewTextHandler(w, opts))
}

// durationsAsText makes a duration the same text in both formats, such as 1m30s.
// As a number it has no unit that a reader could know.
func durationsAsText(_ []string, a slog.Attr) slog.Attr {
	if a.Value.Kind() == slog.KindDuration {
		a.Value = slog.StringValue(a.Value.Duration().String())
	}
	return a
}

// LogFailure writes problems, the sentences that say why a process ends, to w: in
// JSON one record each, otherwise as text for people. It returns after one second
// if nobody reads w.
func LogFailure(w io.Writer, format string, problems []string) {
	l := NewLogWriter(w, format)
	if format == "json" {
		log := newLogger(l, format, slog.LevelInfo)
		for _, p := range problems {
			log.Error("failed", "err", p)
		}
	} else {
		fmt.Fprintln(l, Complaint(problems))
	}
	l.Flush(FlushTime)
}

// Complaint is problems, sentences, as one text for people; empty if there are
// none.
func Complaint(problems []string) string {
	switch len(problems) {
	case 0:
		return ""
	case 1:
		return "pyrycode-relay: " + problems[0]
	}
	return fmt.Sprintf("pyrycode-relay: %d problems\n  %s", len(problems), strings.Join(problems, "\n  "))
}

// What an HTTP server may complain of, in lines: anybody who can connect can
// make it complain.
const (
	complaintsPerSecond = 1
	complaintsAtOnce    = 20
	maxComplaint        = 8 << 10 // bytes; a panic's stack fits
)

// complaints is the ErrorLog of an HTTP server: lines go to the process's
// log, so many per second, and of the others the number is told.
type complaints struct {
	log   *slog.Logger
	limit *rate.Limiter

	mu   sync.Mutex
	lost int
}

// newErrorLog makes the log of one server; name says which.
func newErrorLog(l *slog.Logger, name string) *log.Logger {
	c := &complaints{
		log:   l.With("server", name),
		limit: rate.NewLimiter(complaintsPerSecond, complaintsAtOnce),
	}
	return log.New(c, "", 0)
}

// Write takes one line.
func (c *complaints) Write(line []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.limit.AllowN(time.Now(), 1) {
		c.lost++
		return len(line), nil
	}
	text := bytes.TrimSpace(line)
	if len(text) > maxComplaint {
		text = fmt.Appendf(text[:maxComplaint:maxComplaint], "… (%d bytes more)", len(text)-maxComplaint)
	}
	if c.lost > 0 {
		c.log.Warn("http server: lines left out", "count", c.lost)
		c.lost = 0
	}
	c.log.Warn("http server", "err", string(text))
	return len(line), nil
}
