package main

import (
	"fmt"
	"io"
	"runtime/debug"
	"time"
)

type idleCommand struct {
	relayFlags
	Conns  int           `default:"1000" help:"Connections to open."`
	Phones int           `default:"16" help:"Phones of each binary. The relay's default limit is 16."`
	For    time.Duration `default:"65s" help:"Duration of the idle time; the relay sends a heartbeat every 30s."`
}

// idleReport is the cost of idle connections.
type idleReport struct {
	Conns      int     `json:"connections"`
	Connect    float64 `json:"connects_per_second"`
	ConnectCPU float64 `json:"relay_cpu_us_per_connect,omitempty"` // includes one round trip
	Seconds    float64 `json:"seconds"`
	RSS        float64 `json:"rss_bytes_per_connection,omitempty"`
	Heap       float64 `json:"heap_bytes_per_connection,omitempty"`
	Stacks     float64 `json:"stack_bytes_per_connection,omitempty"`
	Goroutines float64 `json:"goroutines_per_connection,omitempty"`
	CPU        float64 `json:"relay_cpu,omitempty"` // processors used while all connections are idle
	Scrape     float64 `json:"scrape_ms,omitempty"` // one scrape of the metrics, with all connected
}

func (r *idleReport) table(w io.Writer) {
	fmt.Fprintf(w, "idle: %d connections for %.0f s; each made one round trip before\n", r.Conns, r.Seconds)
	fmt.Fprintf(w, "  connected           %14.0f per second, a round trip each\n", r.Connect)
	if r.ConnectCPU != 0 {
		fmt.Fprintf(w, "  processor time      %14.0f µs each\n", r.ConnectCPU)
	}
	if r.RSS != 0 {
		fmt.Fprintf(w, "  resident memory     %14.0f bytes per connection\n", r.RSS)
	}
	if r.Heap != 0 || r.Stacks != 0 {
		fmt.Fprintf(w, "  of it, Go runtime   %14.0f bytes per connection: heap %.0f, stacks %.0f\n", r.Heap+r.Stacks, r.Heap, r.Stacks)
		fmt.Fprintf(w, "  goroutines          %14.3f per connection\n", r.Goroutines)
		fmt.Fprintf(w, "  a scrape takes      %14.2f ms\n", r.Scrape)
	}
	if r.RSS != 0 {
		fmt.Fprintf(w, "  heartbeats          %14.2f %% of a processor\n", r.CPU*100)
	}
}

// Run is called by kong.
func (c *idleCommand) Run(e *env) error {
	if c.Conns < 2 || c.Phones < 1 {
		return usagef("--conns must be 2 or more, --phones 1 or more")
	}
	t, err := c.target(c.Conns, idleBuffer, c.For)
	if err != nil {
		return err
	}
	r, fl, err := idle(e, t, c.Conns, c.Phones, c.For, c.PID, c.Metrics)
	if err != nil {
		return hint(err)
	}
	fl.close()
	return e.printReport(c.JSON, r)
}

// collectorWait is the delay between connecting and the measurement of memory.
// The relay's garbage collector runs during it.
const collectorWait = 3 * time.Second

// idle opens conns connections and measures the relay while they are idle for d.
// The returned fleet is still connected; the caller closes it.
func idle(e *env, t *target, conns, phones int, d time.Duration, pid int, metrics string) (*idleReport, *fleet, error) {
	s := shape{binaries: max(conns/(1+phones), 1), phones: phones, size: minFrame, flight: 1}
	r := &idleReport{Conns: s.connections()}
	read := func() (rss int64, f procStats, took time.Duration, err error) {
		if metrics != "" {
			if f, took, err = scrape(metrics); err != nil {
				return 0, f, 0, err
			}
		}
		if pid > 0 {
			rss, err = rssOf(pid)
		}
		return rss, f, took, err
	}
	rss0, f0, _, err := read()
	if err != nil {
		return nil, nil, err
	}
	var cpu0, cpu1 time.Duration
	if pid > 0 {
		if cpu0, err = cpuOf(pid); err != nil {
			return nil, nil, err
		}
	}
	start := time.Now()
	c, err := connectFleet(t, s, e.progress.connecting)
	if err != nil {
		return nil, nil, err
	}
	r.Connect = float64(r.Conns) / time.Since(start).Seconds()
	if pid > 0 {
		cpu1, _ = cpuOf(pid)
		r.ConnectCPU = float64((cpu1 - cpu0).Microseconds()) / float64(r.Conns)
	}
	debug.FreeOSMemory() // leaves more memory to the relay
	wait(e.ctx, min(collectorWait, d/2))

	from := c.snapshot(pid)
	for end := start.Add(time.Since(start) + d); e.ctx.Err() == nil && c.failed() == nil && time.Now().Before(end); {
		e.progress.show("idle: %d connections, %.0f s to go", r.Conns, time.Until(end).Seconds())
		wait(e.ctx, min(time.Until(end), 500*time.Millisecond))
	}
	to := c.snapshot(pid)
	if err := c.failed(); err != nil {
		c.close()
		return nil, nil, err
	}
	if e.ctx.Err() != nil {
		c.close()
		return nil, nil, errInterrupted
	}
	r.Seconds = to.at.Sub(from.at).Seconds()
	r.CPU = (to.relay - from.relay).Seconds() / r.Seconds
	rss1, f1, took, err := read()
	if err != nil {
		c.close()
		return nil, nil, err
	}
	n := float64(r.Conns)
	r.RSS = float64(rss1-rss0) / n
	r.Heap, r.Stacks = (f1.Heap-f0.Heap)/n, (f1.Stacks-f0.Stacks)/n
	r.Goroutines = (f1.Goroutines - f0.Goroutines) / n
	r.Scrape = float64(took) / 1e6
	return r, c, nil
}
