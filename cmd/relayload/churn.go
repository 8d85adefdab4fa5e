package main

import (
	"crypto/tls"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/load"
)

type churnCommand struct {
	relayFlags
	Workers int           `default:"8" help:"Concurrent phones; each has its own binary."`
	Resume  bool          `help:"Resume TLS sessions with tickets, as clients do that connect again."`
	For     time.Duration `default:"5s" help:"How long to measure."`
}

// churnReport is the rate of short phone connections.
type churnReport struct {
	Workers   int     `json:"workers"`
	Seconds   float64 `json:"seconds"`
	Phones    int     `json:"phones"`
	PerSecond float64 `json:"phones_per_second"`
	P50       float64 `json:"p50_us"`
	P99       float64 `json:"p99_us"`
	CPUEach   float64 `json:"relay_cpu_us_per_phone,omitempty"`
}

// Table implements load.Report.
func (r *churnReport) Table(w io.Writer) {
	fmt.Fprintf(w, "churn: %d phones at a time for %.1f s: connect, join, one round trip, close\n", r.Workers, r.Seconds)
	fmt.Fprintf(w, "  connected, closed   %14.0f phones per second\n", r.PerSecond)
	fmt.Fprintf(w, "  from dial to answer %14.0f µs median, %.0f µs p99\n", r.P50, r.P99)
	if r.CPUEach > 0 {
		fmt.Fprintf(w, "  the relay used      %14.0f µs per phone\n", r.CPUEach)
	}
}

func (c *churnCommand) plan() (plan, error) {
	if c.Workers < 1 {
		return plan{}, load.Usagef("--workers must be 1 or more")
	}
	return plan{relay: &c.relayFlags, conns: 2 * c.Workers, buffer: load.SmallBuffer, length: c.For, json: c.JSON}, nil
}

func (c *churnCommand) run(d *driver) (load.Report, error) {
	if c.Resume && d.target.TLS != nil {
		d.target.TLS.ClientSessionCache = tls.NewLRUClientSessionCache(0)
	}
	fl := load.NewFleet(d.target, load.Shape{Size: load.MinFrame, Flight: 1})
	var late load.Latencies
	var mu sync.Mutex
	var wg sync.WaitGroup
	from := fl.Snapshot(d.pid)
	end := time.Now().Add(c.For)
	for i := range c.Workers {
		server := fmt.Sprintf("churn-%d-%d", os.Getpid(), i)
		if err := fl.AddBinary(server); err != nil {
			fl.Fail(err)
			break
		}
		wg.Go(func() {
			for time.Now().Before(end) && d.Ctx.Err() == nil && fl.Failed() == nil {
				start := time.Now()
				ph, err := fl.Phone(server, i)
				if err != nil {
					fl.Fail(err)
					return
				}
				mu.Lock()
				late.Add(time.Since(start))
				d.Progress.Show("churn: %d phones", late.Count())
				mu.Unlock()
				ph.Bye()
			}
		})
	}
	wg.Wait()
	to := fl.Snapshot(d.pid)
	fl.Close()
	if err := fl.Failed(); err != nil {
		return nil, err
	}
	if d.Ctx.Err() != nil {
		return nil, load.ErrInterrupted
	}
	r := &churnReport{Workers: c.Workers, Seconds: to.At.Sub(from.At).Seconds(), Phones: late.Count(),
		P50: float64(late.Quantile(.5)) / 1e3, P99: float64(late.Quantile(.99)) / 1e3}
	r.PerSecond = float64(r.Phones) / r.Seconds
	r.CPUEach = (to.Relay - from.Relay).Seconds() * 1e6 / float64(max(r.Phones, 1))
	return r, nil
}
