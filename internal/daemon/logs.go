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

	"github.com/pyrycode/pyrycode-relay/internal/status"
)

// newLogger returns a log that writes records of at least level to w, in one of
// the values of --log-format. It is for records without server-ids.
func newLogger(w io.Writer, format string, level slog.Leveler) *slog.Logger {
	return newLoggerOf(w, format, level, nil)
}

// newLoggerOf is newLogger for records with server-ids, which it replaces with the result
// of show.
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

// durationsAsText turns durations into the same text in both formats, such as 1m30s. A
// number does not show its unit.
func durationsAsText(_ []string, a slog.Attr) slog.Attr {
	if a.Value.Kind() == slog.KindDuration {
		a.Value = slog.StringValue(a.Value.Duration().String())
	}
	return a
}

// LogFailure writes problems, the sentences for which a process ends, to w. With the
// format json it writes a record for each, otherwise a text for people. It returns after
// one second if w blocks.
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

// Complaint returns problems, which are sentences, as one text for people. It returns ""
// without problems.
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

// complaints writes the log lines of an HTTP server to the process's log, up to a limit.
// Lines above the limit are counted, and their number is logged.
type complaints struct {
	log   *slog.Logger
	limit *rate.Limiter
	lost  prometheus.Counter

	mu      sync.Mutex // guards all below
	unsaid  int        // lines over the limit, since their number was logged
	pending bool       // a timer is set that logs it
}

// newErrorLog returns the log of one server. Its records have the server's name. lost
// counts the lines above the limit.
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

// admit reports whether a line may be logged now. If not, it counts the line. The number
// is logged after complaintsReport.
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

// report is the function of the timer that admit sets.
func (c *complaints) report() {
	c.mu.Lock()
	n := c.unsaid
	c.unsaid, c.pending = 0, false
	c.mu.Unlock()
	c.log.Warn("http server: lines left out", "count", n)
}

// recentBytes is the size of the end of the log that is kept: about a thousand lines, or
// the last ten seconds while peers cause as many records as the limits allow.
const recentBytes = 256 << 10

// recent writes the log to another writer and keeps its end, for operators without
// access to that writer's output.
type recent struct {
	to io.Writer

	mu   sync.Mutex // guards all below
	ring []byte     // grows to recentBytes, then new bytes replace the oldest
	at   int        // index of the oldest byte, once the ring is full
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

// lines returns the kept lines, the oldest first. It omits a line with only its end
// left.
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
	status.Headers(w, "text/plain; charset=utf-8")
	_, _ = w.Write(r.lines()) // a client that has gone needs no answer
}
