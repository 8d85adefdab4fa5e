package load

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"time"
)

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
