package daemon

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	dto "github.com/prometheus/client_model/go"

	"github.com/pyrycode/pyrycode-relay/internal/config"
)

// faultyWriter is a log with a reader that can stop, go, and come back.
type faultyWriter struct {
	mu    sync.Mutex
	buf   bytes.Buffer
	fail  error         // of each write; nil: none
	short int           // how much a write that fails still writes
	stuck chan struct{} // not nil: writes wait for it
}

func (w *faultyWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	stuck := w.stuck
	w.mu.Unlock()
	if stuck != nil {
		<-stuck
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.fail != nil {
		n := min(w.short, len(p))
		w.buf.Write(p[:n])
		return n, w.fail
	}
	return w.buf.Write(p)
}

func (w *faultyWriter) set(fail error, short int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fail, w.short = fail, short
}

func (w *faultyWriter) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.buf.String()
}

func losses(l *LogWriter, reason string) float64 {
	var m dto.Metric
	_ = l.losses.WithLabelValues(reason).Write(&m) // a counter's does not fail
	return m.GetCounter().GetValue()
}

func TestALogThatNobodyReadsHoldsUpNobodyAndIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		to := &faultyWriter{stuck: make(chan struct{})}
		l := NewLogWriter(to, "text")
		record := strings.Repeat("x", 1023) + "\n"
		_, _ = io.WriteString(l, "first\n")
		synctest.Wait() // it is being written now
		const records = 3 * logQueueBytes / 1024
		for range records {
			if n, err := io.WriteString(l, record); n != len(record) || err != nil {
				t.Fatalf("Write() = %d, %v; want all, nil", n, err)
			}
		}
		if got, want := losses(l, lostFull), float64(records-logQueueBytes/1024); got != want {
			t.Errorf("%v records are lost; want %v", got, want)
		}
		begun := time.Now()
		if l.Flush(FlushTime) {
			t.Error("flush() = true while the log is not read")
		}
		if took := time.Since(begun); took != FlushTime {
			t.Errorf("flush took %v; want its bound, %v", took, FlushTime)
		}
		close(to.stuck)
		if !l.Flush(FlushTime) {
			t.Error("flush() = false though the log is read again")
		}
		lines := strings.Split(strings.TrimSpace(to.String()), "\n")
		if got, want := len(lines), 1+logQueueBytes/1024+1; got != want {
			t.Fatalf("%d lines are written; want %d", got, want)
		}
		if want := fmt.Sprintf("count=%v", losses(l, lostFull)); !strings.HasSuffix(lines[len(lines)-1], want) {
			t.Errorf("the last line is %q; want it to say %s", lines[len(lines)-1], want)
		}
	})
}

func TestWhatCouldNotBeWrittenIsCountedAndSaidOnceItCan(t *testing.T) {
	for _, format := range []string{"text", "json"} {
		to := &faultyWriter{fail: syscall.EPIPE, short: 3}
		l := NewLogWriter(to, format)
		for i := range 5 {
			_, _ = fmt.Fprintf(l, "lost %d\n", i)
			l.Flush(patience)
		}
		to.set(nil, 0)
		_, _ = io.WriteString(l, "written\n")
		l.Flush(patience)
		if got := losses(l, lostFailed); got != 5 {
			t.Errorf("%v records are lost; want 5", got)
		}
		lines := strings.Split(to.String(), "\n")
		if lines = lines[max(0, len(lines)-3):]; len(lines) != 3 || lines[0] != "written" || lines[2] != "" {
			t.Fatalf("written: %q; want the record on a line of its own, then one that says what is missing", lines)
		}
		for _, want := range map[string][]string{"text": {"level=WARN", "count=5"}, "json": {`"level":"WARN"`, `"count":5`}}[format] {
			if !strings.Contains(lines[1], want) {
				t.Errorf("%s: the last line is %q; want %s in it", format, lines[1], want)
			}
		}
		_, _ = io.WriteString(l, "more\n")
		l.Flush(patience)
		if got := to.String(); strings.Count(got, "missing") != 1 || !strings.HasSuffix(got, "\nmore\n") {
			t.Errorf("it says more than once what is missing:\n%s", got)
		}
	}
}

func TestALogThatIsNotReadyIsWrittenLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		to := &faultyWriter{fail: syscall.EAGAIN, short: 4}
		l := NewLogWriter(to, "text")
		_, _ = io.WriteString(l, "twelve bytes\n")
		time.Sleep(logRetry + logRetry/2)
		to.set(nil, 0)
		l.Flush(FlushTime)
		if got := to.String(); got != "twelve bytes\n" {
			t.Errorf("written: %q", got)
		}
		if got := losses(l, lostFailed); got != 0 {
			t.Errorf("%v records are lost; want none", got)
		}
	})
}

func TestAQueueThatWasFullGivesItsMemoryBack(t *testing.T) {
	l := NewLogWriter(io.Discard, "text")
	for range 100 {
		_, _ = io.WriteString(l, strings.Repeat("x", 4095)+"\n")
	}
	l.Flush(patience)
	l.mu.Lock()
	defer l.mu.Unlock()
	if got := cap(l.queue); got > logKeepBytes {
		t.Errorf("the empty queue keeps %d bytes; want at most %d", got, logKeepBytes)
	}
}

// The log's pipe is full and is not read. The relay serves, and ends after a signal.
func TestARelayWhoseLogIsStuckServesAndEnds(t *testing.T) {
	to := &faultyWriter{stuck: make(chan struct{})}
	defer close(to.stuck)
	signals, ended, addresses := make(chan os.Signal, 1), make(chan error, 1), make(chan string, 1)
	c := config.Default()
	c.Listen, c.MetricsListen = "127.0.0.1:0", "127.0.0.1:0"
	go func() {
		ended <- Run(t.Context(), c, Env{Log: to, Signals: signals, Ready: func(public, _ net.Addr) { addresses <- public.String() }})
	}()
	if status, _, _ := get(t, "http://"+<-addresses+"/healthz"); status != http.StatusOK {
		t.Errorf("/healthz: %d; want 200", status)
	}
	signals <- syscall.SIGTERM
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("Run() = %v; want nil", err)
		}
	case <-time.After(patience):
		t.Error("it did not end")
	}
}

func TestDurationsAreTheSameTextInBothFormats(t *testing.T) {
	for format, want := range map[string]string{"text": "duration=1m30s", "json": `"duration":"1m30s"`} {
		var b bytes.Buffer
		newLogger(&b, format, nil).Info("x", "duration", 90*time.Second)
		if !strings.Contains(b.String(), want) {
			t.Errorf("%s: %s; want %s", format, b.String(), want)
		}
	}
}

func TestFailuresAreReportedInTheLogsFormat(t *testing.T) {
	problems := []string{`--grace "0s": must be more`, "second"}
	for format, want := range map[string][]string{
		"text": {"pyrycode-relay: 2 problems\n  --grace \"0s\": must be more\n  second\n"},
		"json": {`"level":"ERROR","msg":"failed","err":"--grace \"0s\": must be more"}`, `"err":"second"}`},
	} {
		var b bytes.Buffer
		LogFailure(&b, format, problems)
		for _, w := range want {
			if !strings.Contains(b.String(), w) {
				t.Errorf("%s: %q; want %q in it", format, b.String(), w)
			}
		}
	}
}

func TestAFailureThatNobodyReadsIsNotWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		to := &faultyWriter{stuck: make(chan struct{})}
		LogFailure(to, "text", []string{"x"})
		close(to.stuck)
	})
}

func TestALogWriterSurvivesAPipeWithoutAReader(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	r.Close()
	l := NewLogWriter(w, "text")
	_, _ = io.WriteString(l, "x\n")
	l.Flush(patience)
	if got := losses(l, lostFailed); got != 1 {
		t.Errorf("%v records are lost; want 1", got)
	}
	if _, err := w.WriteString("x"); !errors.Is(err, syscall.EPIPE) {
		t.Errorf("a write ends with %v; want EPIPE", err)
	}
}
