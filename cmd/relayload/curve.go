package main

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"time"
)

type curveCommand struct {
	relayFlags
	Relay  string        `placeholder:"PROGRAM" help:"Start this relay, with one processor, and measure it; --url and --pid are not needed then."`
	Out    string        `short:"o" default:"capacity.svg" help:"Where the curve is drawn, an SVG."`
	Max    int           `default:"1024" help:"Phones at the end; each step doubles them."`
	Phones int           `default:"8" help:"Phones of each binary at most."`
	Size   int           `default:"512" help:"Bytes of a frame."`
	For    time.Duration `default:"2s" help:"How long each step is measured."`
}

// step is one point of the curve.
type step struct {
	Phones   int `json:"phones"`
	Binaries int `json:"binaries"`
	sample
}

type curveReport struct {
	Date  string `json:"date"`
	Relay string `json:"relay"` // what it says of itself, or where it is
	Size  int    `json:"frame_bytes"`
	Steps []step `json:"steps"`
}

func (r *curveReport) table(w io.Writer) {
	fmt.Fprintf(w, "%s; %s\n", r.Date, r.Relay)
	fmt.Fprintf(w, "round trips, one under way of each phone, frames of %d bytes\n", r.Size)
	fmt.Fprintf(w, "%8s %8s %12s %10s %10s %12s %8s %8s\n", "phones", "binaries", "frames/s", "p50 µs", "p99 µs", "CPU µs/frame", "CPU", "gen.")
	for _, s := range r.Steps {
		fmt.Fprintf(w, "%8d %8d %12.0f %10.0f %10.0f %12.2f %8.2f %8.2f\n", s.Phones, s.Binaries, s.PerSecond, s.P50, s.P99, s.CPUPerFrame, s.CPU, s.GeneratorCPU)
	}
}

// Run is called by kong.
func (c *curveCommand) Run(e *env) error {
	if c.Max < 1 || c.Phones < 1 || c.Size < minFrame || c.Size > 256<<10 {
		return usagef("--max and --phones must be 1 or more, --size from %d to %d", minFrame, 256<<10)
	}
	r := &curveReport{Date: time.Now().Format(time.DateOnly), Relay: c.URL, Size: c.Size}
	if c.Relay != "" {
		child, err := start(e.ctx, "relay", c.Relay, relayArgs(2*c.Max)...)
		if err != nil {
			return err
		}
		defer child.end()
		c.URL, c.PID, r.Relay = "ws://"+child.addr, child.pid(), versionOf(e.ctx, c.Relay)
		runtime.GOMAXPROCS(1) // the other processor is the relay's
	}
	t, err := c.target(c.Max+(c.Max+c.Phones-1)/c.Phones, 16<<10, c.For)
	if err != nil {
		return err
	}
	for n := 1; ; n = min(2*n, c.Max) {
		each := min(n, c.Phones)
		s := shape{binaries: max(n/each, 1), phones: each, size: c.Size, flight: 1}
		fl, err := connectFleet(t, s, e.progress.connecting)
		if err != nil {
			return hint(err)
		}
		got, err := fl.run(e.ctx, c.For, c.PID, e.progress.running(fmt.Sprintf("%d phones", n)))
		fl.close()
		if err != nil {
			return err
		}
		r.Steps = append(r.Steps, step{s.binaries * s.phones, s.binaries, got})
		if n == c.Max {
			break
		}
	}
	if err := os.WriteFile(c.Out, r.svg(), 0o644); err != nil {
		return err
	}
	return e.printReport(c.JSON, r)
}
