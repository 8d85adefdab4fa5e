package main

import (
	"fmt"
	"io"
	"runtime/debug"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/load"
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

// Table implements load.Report.
func (r *idleReport) Table(w io.Writer) {
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

func (c *idleCommand) plan() (plan, error) {
	if c.Conns < 2 || c.Phones < 1 {
		return plan{}, load.Usagef("--conns must be 2 or more, --phones 1 or more")
	}
	return plan{relay: &c.relayFlags, conns: c.Conns, buffer: load.IdleBuffer, length: c.For, json: c.JSON}, nil
}

func (c *idleCommand) run(d *driver) (load.Report, error) {
	r, err := d.idle(c.Conns, c.Phones, c.For, c.Metrics)
	if err != nil {
		return nil, err
	}
	return r, nil
}

// collectorWait is the delay between connecting and the measurement of memory.
// The relay's garbage collector runs during it.
const collectorWait = 3 * time.Second

// relayState is what the idle measurement reads of a relay's process.
type relayState struct {
	load.ProcStats
	rss    int64
	scrape time.Duration // how long the metrics took
}

// state reads the relay's process. It skips the metrics if their URL is empty.
func (d *driver) state(metrics string) (s relayState, err error) {
	if metrics != "" {
		if s.ProcStats, s.scrape, err = load.ReadProcStats(metrics); err != nil {
			return s, err
		}
	}
	if d.pid > 0 {
		s.rss, err = load.RSS(d.pid)
	}
	return s, err
}

// idle opens conns connections, measures the relay while they are idle for length,
// and closes them.
func (d *driver) idle(conns, phones int, length time.Duration, metrics string) (*idleReport, error) {
	s := load.Shape{Binaries: max(conns/(1+phones), 1), Phones: phones, Size: load.MinFrame, Flight: 1}
	r := &idleReport{Conns: s.Connections()}
	if d.target.Raw {
		r.Conns = s.Binaries * s.Phones // only phones connect
	}
	before, err := d.state(metrics)
	if err != nil {
		return nil, err
	}
	empty := load.NewFleet(d.target, s).Snapshot(d.pid)
	fl, err := d.connect(s)
	if err != nil {
		return nil, err
	}
	defer fl.Close()
	connected := fl.Snapshot(d.pid)
	r.Connect = float64(r.Conns) / connected.At.Sub(empty.At).Seconds()
	r.ConnectCPU = float64((connected.Relay - empty.Relay).Microseconds()) / float64(r.Conns)
	debug.FreeOSMemory() // leaves more memory to the relay
	load.Wait(d.Ctx, min(collectorWait, length/2))

	from := fl.Snapshot(d.pid)
	for end := time.Now().Add(length); d.Ctx.Err() == nil && fl.Failed() == nil && time.Now().Before(end); {
		d.Progress.Show("idle: %d connections, %.0f s to go", r.Conns, time.Until(end).Seconds())
		load.Wait(d.Ctx, min(time.Until(end), 500*time.Millisecond))
	}
	to := fl.Snapshot(d.pid)
	if err := fl.Failed(); err != nil {
		return nil, err
	}
	if d.Ctx.Err() != nil {
		return nil, load.ErrInterrupted
	}
	r.Seconds = to.At.Sub(from.At).Seconds()
	r.CPU = (to.Relay - from.Relay).Seconds() / r.Seconds
	after, err := d.state(metrics)
	if err != nil {
		return nil, err
	}
	n := float64(r.Conns)
	r.RSS = float64(after.rss-before.rss) / n
	r.Heap, r.Stacks = (after.Heap-before.Heap)/n, (after.Stacks-before.Stacks)/n
	r.Goroutines = (after.Goroutines - before.Goroutines) / n
	r.Scrape = float64(after.scrape) / 1e6
	return r, nil
}
