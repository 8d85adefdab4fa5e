package daemon

import (
	"bytes"
	"fmt"
	"io"
	"log"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

var (
	logFormats = []string{"text", "json"}
	logLevels  = []string{"debug", "info", "warn", "error"}
)

// newLogger makes the process's log, which logs what is at least level.
func newLogger(w io.Writer, format string, level slog.Leveler) *slog.Logger {
	opts := &slog.HandlerOptions{Level: level}
	if format == "json" {
		return slog.New(slog.NewJSONHandler(w, opts))
	}
	return slog.New(slog.NewTextHandler(w, opts))
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
