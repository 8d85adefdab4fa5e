package main

import (
	"fmt"
	"io"
	"sync"
	"time"
)

type churnCommand struct {
	relayFlags
	Workers int           `default:"8" help:"Concurrent phones; each has its own binary."`
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

func (r *churnReport) table(w io.Writer) {
	fmt.Fprintf(w, "churn: %d phones at a time for %.1f s: connect, join, one round trip, close\n", r.Workers, r.Seconds)
	fmt.Fprintf(w, "  connected, closed   %14.0f phones per second\n", r.PerSecond)
	fmt.Fprintf(w, "  from dial to answer %14.0f µs median, %.0f µs p99\n", r.P50, r.P99)
	if r.CPUEach > 0 {
		fmt.Fprintf(w, "  the relay used      %14.0f µs per phone\n", r.CPUEach)
	}
}

// Run is called by kong.
func (c *churnCommand) Run(e *env) error {
	if c.Workers < 1 {
		return usagef("--workers must be 1 or more")
	}
	t, err := c.target(2*c.Workers, 4096, c.For)
	if err != nil {
		return err
	}
	fl := &fleet{shape: shape{size: minFrame, flight: 1}, to: t}
	var late latencies
	var mu sync.Mutex
	var wg sync.WaitGroup
	from := fl.snapshot(c.PID)
	end := time.Now().Add(c.For)
	for i := range c.Workers {
		server := fmt.Sprintf("churn-%d-%d", self, i)
		p, err := t.dial("/v1/server", server)
		if err != nil {
			fl.fail(err)
			break
		}
		b := &loadBinary{peer: p, ids: make(map[int]string)}
		fl.binaries = append(fl.binaries, b)
		go func() { fl.ended("binary", i, b.echo()) }()
		wg.Go(func() {
			for time.Now().Before(end) && e.ctx.Err() == nil && fl.failed() == nil {
				start := time.Now()
				ph, err := fl.phone(server, i)
				if err != nil {
					fl.fail(err)
					return
				}
				mu.Lock()
				late.add(time.Since(start))
				e.progress.show("churn: %d phones", late.n)
				mu.Unlock()
				ph.bye()
			}
		})
	}
	wg.Wait()
	to := fl.snapshot(c.PID)
	fl.close()
	if err := fl.failed(); err != nil {
		return hint(err)
	}
	if e.ctx.Err() != nil {
		return errInterrupted
	}
	r := &churnReport{Workers: c.Workers, Seconds: to.at.Sub(from.at).Seconds(), Phones: int(late.n),
		P50: float64(late.quantile(.5)) / 1e3, P99: float64(late.quantile(.99)) / 1e3}
	r.PerSecond = float64(r.Phones) / r.Seconds
	r.CPUEach = (to.relay - from.relay).Seconds() * 1e6 / float64(max(r.Phones, 1))
	return e.printReport(c.JSON, r)
}
