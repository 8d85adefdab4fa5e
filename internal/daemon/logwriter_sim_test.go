package daemon

import (
	"bytes"
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pyrycode/pyrycode-relay/sim/engine"
	"github.com/pyrycode/pyrycode-relay/sim/relayruntime"
)

// simulatedLog is a log with a reader that is slow, fails or takes a part of a write, as the
// seed decides. Only the task of a LogWriter writes.
type simulatedLog struct {
	r   *engine.Run
	buf bytes.Buffer
}

func (w *simulatedLog) Write(p []byte) (int, error) {
	w.r.Yield(engine.AtWrite, 0)
	n, err := len(p), error(nil)
	switch w.r.Intn(8) {
	case 0:
		w.r.Sleep(time.Duration(w.r.Intn(3000)) * time.Millisecond)
	case 1:
		n, err = w.r.Intn(len(p)+1), errors.New("the disk is full")
	case 2:
		n, err = w.r.Intn(len(p)), syscall.EAGAIN
	}
	if n < len(p) && p[n] == '\n' {
		n++ // without its end a whole record looks like one that was cut
	}
	w.buf.Write(p[:n])
	return n, err
}

// Whatever the reader of the log does, each record is written once, in the order of its
// writer, or it is counted as lost. Flush is true only if everything before it was.
func TestSimulatedLogLosesNoRecordSilently(t *testing.T) {
	engine.Test(t, func(r *engine.Run) {
		to := &simulatedLog{r: r}
		l := newLogWriter(relayruntime.NewRuntime(r, engine.NewRand(1)), to, "json")
		writers := engine.NewWaitGroup(r)
		records := 0
		for i := range 3 {
			n := 1 + r.Intn(5)
			records += n
			writers.Go("writer", func() {
				for k := range n {
					record := strconv.Itoa(i) + " " + strconv.Itoa(k) + " "
					if r.Intn(6) == 0 {
						record += strings.Repeat("x", logQueueBytes/2)
					}
					if size, err := l.Write([]byte(record + "\n")); err != nil || size != len(record)+1 {
						r.Fail("write", "Write returns %d, %v; want all bytes and no error", size, err)
					}
					if r.Intn(4) == 0 {
						begun := r.Now()
						l.Flush(time.Second)
						if took := time.Duration(r.Now() - begun); took > time.Second {
							r.Fail("flush", "Flush waits %v; want at most 1s", took)
						}
					}
				}
			})
		}
		writers.Wait()
		if !l.Flush(time.Hour) {
			r.Fail("flush", "the queue is not empty after an hour")
		}
		written, reported := checkRecords(r, to.buf.String())
		lost := int(losses(l, lostFull) + losses(l, lostFailed))
		if written+lost != records || reported > lost {
			r.Fail("count", "of %d records %d are written and %d count as lost; the log says %d", records, written, lost, reported)
		}
	})
}

// checkRecords checks the order of the whole records of a log. It returns their number,
// and the number of records that the log says are lost. A record that a failure has cut is
// not whole.
func checkRecords(r *engine.Run, log string) (written, reported int) {
	next := [3]int{}
	for line := range strings.Lines(log) {
		if strings.HasPrefix(line, "{") {
			var said struct{ Count int }
			if json.Unmarshal([]byte(line), &said) == nil {
				reported += said.Count
			}
			continue
		}
		words := strings.Split(line, " ")
		if len(words) != 3 || !strings.HasSuffix(line, "\n") {
			continue
		}
		i, err1 := strconv.Atoi(words[0])
		k, err2 := strconv.Atoi(words[1])
		if err1 != nil || err2 != nil {
			continue
		}
		if n := len(words[2]); n != 1 && n != logQueueBytes/2+1 {
			continue
		}
		if k < next[i] {
			r.Fail("order", "record %d of writer %d is written after record %d", k, i, next[i]-1)
		}
		next[i] = k + 1
		written++
	}
	return written, reported
}
