package daemon

import (
	"bytes"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"
)

var (
	logFormats = []string{"text", "json"}
	logLevels  = []string{"debug", "info", "warn", "error"}
)

// newLogger returns a log that writes records of at least level to w, in one of
// [config.LogFormats]. No record has a server-id in it.
func newLogger(w io.Writer, format string, level slog.Leveler) *slog.Logger {
	return newLoggerOf(w, format, level, nil)
}

// newLoggerOf is newLogger for records in which a server-id is shown as show says.
func newLoggerOf(w io.Writer, format string, level slog.Leveler, show func(string) string) *slog.Logger {
	opts := &slog.HandlerOptions{Level: level, ReplaceAttr: durationsAsText}
	if show != nil {
		opts.ReplaceAttr = fingerprints(show, durationsAsText)
	}
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

// Limits of what one HTTP server logs, in lines: any client can make it log.
const (
	complaintsPerSecond = 1
	complaintsAtOnce    = 20
	maxComplaint        = 8 << 10 // bytes; a panic's stack fits

	// complaintsReport is how often the number of lines over the limit is logged
	// at most.
	complaintsReport = 10 * time.Second
)

// complaints writes what an HTTP server logs to the process's log, up to a limit.
// Lines over the limit are counted, and their number is logged.
type complaints struct {
	log   *slog.Logger
	limit *rate.Limiter
	lost  prometheus.Counter

	mu      sync.Mutex // guards all below
	unsaid  int        // lines over the limit, since their number was logged
	pending bool       // a timer is going to log it
}

// newErrorLog returns the log of one server, whose name is in each record. lost
// counts the lines over the limit.
func newErrorLog(l *slog.Logger, name string, lost prometheus.Counter) *log.Logger {
	c := &complaints{
		log:   l.With("server", name),
		limit: rate.NewLimiter(complaintsPerSecond, complaintsAtOnce),
		lost:  lost,
	}
	return log.New(c, "", 0)
}

// Write takes one line.
func (c *complaints) Write(line []byte) (int, error) {
	if !c.admit() {
		return len(line), nil
	}
	text := bytes.TrimSpace(line)
	if len(text) > maxComplaint {
		text = fmt.Appendf(text[:maxComplaint:maxComplaint], "… (%d bytes more)", len(text)-maxComplaint)
	}
	c.log.Warn("http server", "err", string(text))
	return len(line), nil
}

// admit reports whether a line may be logged now. If not, it counts the line and
// sees to it that the number is logged after complaintsReport.
func (c *complaints) admit() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.limit.AllowN(time.Now(), 1) {
		return true
	}
	c.lost.Inc()
	c.unsaid++
	if !c.pending {
		c.pending = true
		time.AfterFunc(complaintsReport, c.report)
	}
	return false
}

// report is the body of the timer that admit starts.
func (c *complaints) report() {
	c.mu.Lock()
	n := c.unsaid
	c.unsaid, c.pending = 0, false
	c.mu.Unlock()
	c.log.Warn("http server: lines left out", "count", n)
}

// recentBytes is how much of the log is kept: some thousand lines of a quiet
// relay, some ten seconds of one that peers make talk as fast as they may.
const recentBytes = 256 << 10

// recent passes the log on and keeps its end, for operators who cannot get at
// what it was passed on to.
type recent struct {
	to io.Writer

	mu   sync.Mutex // guards all below
	ring []byte     // grows to recentBytes, then the oldest are written over
	at   int        // where the oldest begin, once it is full
}

// Write takes whole lines.
func (r *recent) Write(lines []byte) (int, error) {
	r.keep(lines)
	return r.to.Write(lines)
}

func (r *recent) keep(b []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	b = b[max(0, len(b)-recentBytes):]
	n := min(len(b), recentBytes-len(r.ring))
	r.ring = append(r.ring, b[:n]...)
	for b = b[n:]; len(b) > 0; b = b[n:] {
		n = copy(r.ring[r.at:], b)
		r.at = (r.at + n) % recentBytes
	}
}

// lines is what is kept, oldest first; a line of which only the end is left
// is not in it.
func (r *recent) lines() []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := append(bytes.Clone(r.ring[r.at:]), r.ring[:r.at]...)
	if len(all) == recentBytes {
		_, all, _ = bytes.Cut(all, []byte("\n"))
	}
	return all
}

// ServeHTTP answers with the lines.
func (r *recent) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	_, _ = w.Write(r.lines()) // whoever has gone needs no answer
}
