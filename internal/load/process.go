package load

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/prometheus/procfs"

	"github.com/pyrycode/pyrycode-relay/internal/wstest"
)

// Child is a process that this program starts and measures.
type Child struct {
	*wstest.Process
	Name    string
	Addr    string // its public listener
	Private string // a relay's private listener
}

// StartTimeout bounds the time until a child has printed its address.
const StartTimeout = 10 * time.Second

// Start runs a program on one processor and waits until it has printed its
// address. The relay prints it in its log.
func Start(ctx context.Context, name, program string, args ...string) (*Child, error) {
	cmd := exec.Command(program, args...)
	cmd.Env = append(os.Environ(), "GOMAXPROCS=1")
	return StartCommand(ctx, name, cmd, io.Discard, StartTimeout)
}

var readyLine = regexp.MustCompile(`\bready\b.* listen=(\S+) metrics_listen=(\S+)`)

// StartCommand runs cmd and waits until it has printed its address, up to the given
// time. Its output goes to log.
func StartCommand(ctx context.Context, name string, cmd *exec.Cmd, log io.Writer, within time.Duration) (*Child, error) {
	c := &Child{Name: name}
	var err error
	c.Process, err = wstest.StartProcess(ctx, name, cmd, log, within, func(line string) bool {
		if m := readyLine.FindStringSubmatch(line); m != nil {
			c.Addr, c.Private = m[1], m[2]
		} else if strings.HasPrefix(line, "127.0.0.1:") {
			c.Addr = line
		}
		return c.Addr != ""
	})
	if ctx.Err() != nil {
		err = ErrInterrupted
	}
	if err != nil {
		return nil, err
	}
	return c, nil
}

// Failed adds the child's name to err. If the child has ended, which can be the
// cause, it adds that too.
func (c *Child) Failed(err error) error {
	select {
	case <-c.Exited():
		return fmt.Errorf("%s: %w; the process has ended: %v", c.Name, err, c.Wait())
	case <-time.After(100 * time.Millisecond):
		return fmt.Errorf("%s: %w", c.Name, err)
	}
}

// VersionOf returns the version line of a relay program, or its path if it prints
// none.
func VersionOf(ctx context.Context, relay string) string {
	out, err := exec.CommandContext(ctx, relay, "version").Output()
	if err != nil {
		return relay
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return line
}

// CPU returns the processor time of process pid. It sums the threads' times in
// nanoseconds if the kernel records them. Otherwise it returns the time in ticks of
// 10 ms. The sum excludes threads that have ended; a Go program's threads rarely
// end. CPU returns an error on a system without /proc.
func CPU(pid int) (time.Duration, error) {
	threads, err := procfs.AllThreads(pid)
	var sum uint64
	for _, t := range threads {
		s, e := t.Schedstat()
		if e != nil {
			sum = 0
			break
		}
		sum += s.RunningNanoseconds
	}
	if err != nil || sum > 0 {
		return time.Duration(sum), err
	}
	s, err := stat(pid)
	return time.Duration(s.CPUTime() * float64(time.Second)), err
}

// RSS returns the resident memory of process pid in bytes. It returns an error on a
// system without /proc.
func RSS(pid int) (int64, error) {
	s, err := stat(pid)
	return int64(s.ResidentMemory()), err
}

func stat(pid int) (procfs.ProcStat, error) {
	p, err := procfs.NewProc(pid)
	if err != nil {
		return procfs.ProcStat{}, err
	}
	return p.Stat()
}

// oneRequest opens a new connection for every request, so that none stays open.
var oneRequest = &http.Transport{DisableKeepAlives: true}

// Page returns the body of a page for operators. It returns an error if the status
// is not 200, or if no answer comes within a minute.
func Page(url string) (string, error) { return PageWithin(url, time.Minute) }

// PageWithin is Page with another time limit.
func PageWithin(url string, limit time.Duration) (string, error) {
	client := http.Client{Transport: oneRequest, Timeout: limit}
	resp, err := client.Get(url)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 64<<20))
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: HTTP %s: %s", url, resp.Status, strings.TrimSpace(string(b[:min(len(b), 2000)])))
	}
	return string(b), err
}

// Scrape reads the metrics at url. It sets the value of each series in want that
// they have.
func Scrape(url string, want map[string]*float64) error {
	text, err := Page(url)
	if err != nil {
		return err
	}
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if p := want[name]; p != nil {
			if *p, err = strconv.ParseFloat(value, 64); err != nil {
				return fmt.Errorf("%s: %s: %w", url, name, err)
			}
		}
	}
	return nil
}

// ProcStats is the part of a relay's metrics that describes its process.
type ProcStats struct {
	Goroutines float64 `json:"goroutines"`
	Heap       float64 `json:"heap_bytes"` // in use, garbage included
	Stacks     float64 `json:"stack_bytes"`
	FDs        float64 `json:"open_files"`
}

// ReadProcStats reads ProcStats from a metrics URL. It also returns the duration of
// the request.
func ReadProcStats(url string) (f ProcStats, took time.Duration, err error) {
	start := time.Now()
	err = Scrape(url, map[string]*float64{
		"go_goroutines": &f.Goroutines, "go_memstats_heap_inuse_bytes": &f.Heap,
		"go_memstats_stack_inuse_bytes": &f.Stacks, "process_open_fds": &f.FDs,
	})
	if err != nil {
		return f, 0, fmt.Errorf("--metrics: %w", err)
	}
	return f, time.Since(start), nil
}

// Hint adds advice to an error if its cause is known.
func Hint(err error) error {
	switch s := err.Error(); {
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%w; is the relay running?", err)
	case strings.Contains(s, "HTTP 429"):
		return fmt.Errorf("%w; start the relay with a higher --rate and --burst", err)
	case strings.Contains(s, "HTTP 503"):
		return fmt.Errorf("%w; start the relay with a higher --max-conns or --max-conns-per-address", err)
	case strings.Contains(s, "by the relay: 4429"):
		return fmt.Errorf("%w; start the relay with a higher --max-phones, or ask for fewer --phones", err)
	}
	return err
}
