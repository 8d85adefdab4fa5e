package daemon

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pyrycode/pyrycode-relay/internal/relay"
)

const (
	// logQueueBytes is the limit on the records that wait to be written.
	logQueueBytes = 1 << 20

	// logKeepBytes is the memory that an empty queue may keep.
	logKeepBytes = 16 << 10

	// FlushTime is the time for which a process that ends waits for its log.
	FlushTime = time.Second

	// logRetry is the time between two attempts to write to a descriptor with
	// O_NONBLOCK that is not ready.
	logRetry = 20 * time.Millisecond
)

// Reasons for which a log record is lost.
const (
	lostFull   = "queue_full"
	lostFailed = "write_failed"
	lostLimit  = "server_limit"
)

// LogWriter is an [io.Writer] that queues log records for a writer that may be slow,
// blocked or closed. Write never waits for that writer: a supervisor that does not read
// the log must not stop connections, signals or a drain. Records are lost, and counted,
// if the queue is full or the writer fails. When the writer works again, a record says
// how many were lost.
//
// A task writes the queue and ends when it is empty. All methods may be called from any
// goroutine.
type LogWriter struct {
	rt     relay.Runtime
	to     io.Writer
	format string
	losses *prometheus.CounterVec

	mu       sync.Locker  // guards the fields up to flushing
	queue    []byte       // whole records
	lost     int          // records lost since the last record about losses
	running  bool         // the task that writes has not ended
	emptied  int          // how often the queue has become empty
	flushing []relay.Gate // of calls of Flush

	torn bool // the last write ended inside a record; only the task uses it
}

// NewLogWriter returns a LogWriter to w. Its own records have that format.
func NewLogWriter(w io.Writer, format string) *LogWriter {
	return newLogWriter(relay.Runtime{}, w, format)
}

func newLogWriter(rt relay.Runtime, w io.Writer, format string) *LogWriter {
	rt = rt.WithDefaults()
	l := &LogWriter{rt: rt, mu: rt.NewLock("log queue"), to: w, format: format, losses: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "pyrycode_relay_log_records_lost_total",
		Help: "Log records that were not written, by reason: the reader of the log was too slow, writing failed, or an HTTP server logged more than its limit. /debug/log has the last records of the first two kinds.",
	}, []string{"reason"})}
	for _, reason := range []string{lostFull, lostFailed, lostLimit} {
		l.losses.WithLabelValues(reason)
	}
	return l
}

// Write queues one or more whole records, or drops all of them if the queue has no room.
// It returns no error.
func (l *LogWriter) Write(records []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.queue)+len(records) > logQueueBytes {
		l.lose(lostFull, countRecords(records))
		return len(records), nil
	}
	l.queue = append(l.queue, records...)
	if !l.running {
		l.running = true
		l.rt.Go("log", l.run)
	}
	return len(records), nil
}

// Flush waits until the queue is empty, for at most d. It returns whether the queue has
// been empty.
func (l *LogWriter) Flush(d time.Duration) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.running {
		return true
	}
	emptied, empty := l.emptied, l.rt.NewGate()
	l.flushing = append(l.flushing, empty)
	l.mu.Unlock()
	late := l.rt.Clock.AfterFunc(d, empty.Open)
	empty.Wait()
	late.Stop()
	l.mu.Lock()
	l.flushing = slices.DeleteFunc(l.flushing, func(g relay.Gate) bool { return g == empty })
	return l.emptied > emptied
}

// run writes the queue until it is empty.
func (l *LogWriter) run() {
	var batch []byte
	for {
		l.mu.Lock()
		if len(l.queue) == 0 {
			if cap(l.queue) > logKeepBytes {
				l.queue = nil
			}
			l.running = false
			l.emptied++
			for _, g := range l.flushing {
				g.Open()
			}
			l.mu.Unlock()
			return
		}
		batch, l.queue = l.queue, batch[:0]
		said := l.lost
		l.lost = 0
		l.mu.Unlock()

		records := len(batch)
		if said > 0 {
			batch = append(batch, l.lossRecord(said)...)
		}
		if l.torn {
			l.torn = l.writeAll([]byte("\n")) == 0 // if it fails, so does the next write
		}
		if n := l.writeAll(batch); n < len(batch) {
			l.torn = l.torn || n > 0 && batch[n-1] != '\n'
			l.mu.Lock()
			l.lost += said // that record was the last of the batch, so it is lost, too
			l.lose(lostFailed, countRecords(batch[min(n, records):records]))
			l.mu.Unlock()
		}
	}
}

// lossRecord returns the record about lost records.
func (l *LogWriter) lossRecord(lost int) []byte {
	var b bytes.Buffer
	newLogger(&b, l.format, slog.LevelWarn).Warn("log records are missing before this one: the log's reader was too slow, or writing failed", "count", lost)
	return b.Bytes()
}

// lose counts lost records. l.mu is held.
func (l *LogWriter) lose(reason string, records int) {
	l.lost += records
	l.losses.WithLabelValues(reason).Add(float64(records))
}

// countRecords returns the number of records in b, including incomplete ones.
func countRecords(b []byte) int {
	n := bytes.Count(b, []byte("\n"))
	if len(b) > 0 && b[len(b)-1] != '\n' {
		n++
	}
	return n
}

// writeAll writes b and returns the number of bytes written; less than all means that the
// write has failed. It waits while the file is not ready.
func (l *LogWriter) writeAll(b []byte) (n int) {
	for {
		some, err := l.to.Write(b[n:])
		n += some
		if !errors.Is(err, syscall.EAGAIN) {
			return n
		}
		again := l.rt.NewGate()
		l.rt.Clock.AfterFunc(logRetry, again.Open)
		again.Wait()
	}
}
