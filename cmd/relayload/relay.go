package main

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// relayFlags select the relay and the measurements that are taken of its
// process.
type relayFlags struct {
	URL     string        `default:"ws://127.0.0.1:8080" help:"The relay, ws://host:port or wss://host:port."`
	AnyCert bool          `name:"any-certificate" help:"Do not verify the certificate of a wss:// relay, for example if it is self-signed."`
	PID     int           `name:"pid" help:"The process id of a relay on this machine; its processor time and memory are measured."`
	Metrics string        `help:"The relay's metrics, http://host:port/metrics; its goroutines and heap are reported."`
	Timeout time.Duration `default:"10s" help:"Time limit for establishing each connection."`
	Own     bool          `name:"i-own-this-relay" help:"Allow a relay that is not on loopback."`
	JSON    bool          `name:"json" help:"Print JSON, not a table."`
}

// maxRun bounds every run, so that a forgotten load stops.
const maxRun = time.Hour

// target validates the flags and returns the relay to dial. The caller opens at
// most connections connections, with a read buffer of buffer bytes each, for a
// run of d. It returns a usageError for invalid flags.
func (f *relayFlags) target(connections, buffer int, d time.Duration) (*target, error) {
	u, err := url.Parse(f.URL)
	switch {
	case err != nil || u.Host == "":
		return nil, usagef("--url %q is not a URL such as ws://127.0.0.1:8080", f.URL)
	case u.Scheme != "ws" && u.Scheme != "wss" || strings.Trim(u.Path, "/") != "":
		return nil, usagef("--url %s must be ws://host:port or wss://host:port, without a path", f.URL)
	case f.Timeout <= 0:
		return nil, usagef("--timeout %s must be more than 0s", f.Timeout)
	case d < time.Second || d > maxRun:
		return nil, usagef("--for %s must be from 1s to %s", d, maxRun)
	}
	if u.Port() == "" {
		u.Host = net.JoinHostPort(u.Hostname(), map[string]string{"ws": "80", "wss": "443"}[u.Scheme])
	}
	if !f.Own && !onLoopback(u.Hostname()) {
		return nil, usagef("%s is not on loopback: load on a relay of another operator is an attack; add --i-own-this-relay if the relay is yours", u.Hostname())
	}
	if f.PID != 0 {
		if _, err := cpuOf(f.PID); err != nil {
			return nil, usagef("--pid %d: %v", f.PID, err)
		}
	}
	if err := enoughFiles(connections); err != nil {
		return nil, err
	}
	t := &target{addr: u.Host, buffer: buffer, timeout: f.Timeout, dialled: new(atomic.Int64)}
	if u.Scheme == "wss" {
		t.tls = &tls.Config{ServerName: u.Hostname(), InsecureSkipVerify: f.AnyCert, MinVersion: tls.VersionTLS12}
	}
	return t, nil
}

func onLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// enoughFiles returns a usageError if the limit of open files is too low for the
// given number of connections.
func enoughFiles(connections int) error {
	const spare = 64
	var lim syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &lim); err != nil {
		return nil // a limit that is too low then shows as a failed dial
	}
	if need := uint64(connections) + spare; uint64(lim.Cur) < need {
		return usagef("%d connections need %d open files, this shell allows %d: raise it with ulimit -n, or ask for fewer", connections, need, lim.Cur)
	}
	return nil
}

// procStats is the part of the relay's metrics that describes its process.
type procStats struct {
	Goroutines float64 `json:"goroutines"`
	Heap       float64 `json:"heap_bytes"` // in use, garbage included
	Stacks     float64 `json:"stack_bytes"`
	FDs        float64 `json:"open_files"`
}

// scrape reads procStats from a metrics URL. It also returns the duration of the
// request.
func scrape(from string) (procStats, time.Duration, error) {
	var f procStats
	want := map[string]*float64{
		"go_goroutines": &f.Goroutines, "go_memstats_heap_inuse_bytes": &f.Heap,
		"go_memstats_stack_inuse_bytes": &f.Stacks, "process_open_fds": &f.FDs,
	}
	c := http.Client{Timeout: 10 * time.Second}
	start := time.Now()
	resp, err := c.Get(from)
	if err != nil {
		return f, 0, fmt.Errorf("--metrics: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return f, 0, fmt.Errorf("--metrics %s: HTTP %s", from, resp.Status)
	}
	for sc := bufio.NewScanner(io.LimitReader(resp.Body, 8<<20)); sc.Scan(); {
		name, value, _ := strings.Cut(sc.Text(), " ")
		if p := want[name]; p != nil {
			*p, _ = strconv.ParseFloat(value, 64)
		}
	}
	return f, time.Since(start), nil
}

// hint adds advice to an error if its cause is known.
func hint(err error) error {
	switch s := err.Error(); {
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%w; is the relay running?", err)
	case strings.Contains(s, "HTTP 429"):
		return fmt.Errorf("%w; start the relay with a higher --rate and --burst", err)
	case strings.Contains(s, "HTTP 503"):
		return fmt.Errorf("%w; start the relay with a higher --max-conns or --max-conns-per-address", err)
	case strings.Contains(s, "close 4429"):
		return fmt.Errorf("%w; start the relay with a higher --max-phones, or ask for fewer --phones", err)
	}
	return err
}
