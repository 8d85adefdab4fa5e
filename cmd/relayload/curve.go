package main

import (
	"fmt"
	"io"
	"math"
	"os"
	"strconv"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/chart"
	"github.com/pyrycode/pyrycode-relay/internal/load"
)

type curveCommand struct {
	relayFlags
	Relay  string        `placeholder:"PROGRAM" help:"Start this relay, with one processor, and measure it; --url and --pid are not needed then."`
	Out    string        `short:"o" default:"capacity.svg" help:"File for the curve, an SVG."`
	Max    int           `default:"1024" help:"Phones of the last step; each step doubles the number."`
	Phones int           `default:"8" help:"Maximum number of phones of each binary."`
	Size   int           `default:"512" help:"Bytes of a frame."`
	For    time.Duration `default:"2s" help:"Duration of each step."`
}

// step is one point of the curve.
type step struct {
	Phones   int `json:"phones"`
	Binaries int `json:"binaries"`
	load.Sample
}

type curveReport struct {
	Date  string `json:"date"`
	Relay string `json:"relay"` // its version line or its URL
	Size  int    `json:"frame_bytes"`
	Steps []step `json:"steps"`
}

// Table implements load.Report.
func (r *curveReport) Table(w io.Writer) {
	fmt.Fprintf(w, "%s; %s\n", r.Date, r.Relay)
	fmt.Fprintf(w, "round trips, one in flight per phone, frames of %d bytes\n", r.Size)
	fmt.Fprintf(w, "%8s %8s %12s %10s %10s %12s %8s %8s\n", "phones", "binaries", "frames/s", "p50 µs", "p99 µs", "CPU µs/frame", "CPU", "gen.")
	for _, s := range r.Steps {
		fmt.Fprintf(w, "%8d %8d %12.0f %10.0f %10.0f %12.2f %8.2f %8.2f\n", s.Phones, s.Binaries, s.PerSecond, s.P50, s.P99, s.CPUPerFrame, s.CPU, s.GeneratorCPU)
	}
}

func (c *curveCommand) plan() (plan, error) {
	if c.Max < 1 || c.Phones < 1 || c.Size < load.MinFrame || c.Size > 256<<10 {
		return plan{}, load.Usagef("--max and --phones must be 1 or more, --size from %d to %d", load.MinFrame, 256<<10)
	}
	return plan{relay: &c.relayFlags, start: c.Relay, conns: c.Max + (c.Max+c.Phones-1)/c.Phones, buffer: 16 << 10, length: c.For, json: c.JSON}, nil
}

func (c *curveCommand) run(d *driver) (load.Report, error) {
	r := &curveReport{Date: time.Now().Format(time.DateOnly), Relay: c.URL, Size: c.Size}
	if c.Relay != "" {
		r.Relay = load.VersionOf(d.Ctx, c.Relay)
	}
	for n := 1; ; n = min(2*n, c.Max) {
		each := min(n, c.Phones)
		s := load.Shape{Binaries: max(n/each, 1), Phones: each, Size: c.Size, Flight: 1}
		fl, err := d.connect(s)
		if err != nil {
			return nil, err
		}
		got, err := d.measure(fl, fmt.Sprintf("%d phones", n), c.For)
		fl.Close()
		if err != nil {
			return nil, err
		}
		r.Steps = append(r.Steps, step{s.Binaries * s.Phones, s.Binaries, got})
		if n == c.Max {
			break
		}
	}
	if err := os.WriteFile(c.Out, r.svg(), 0o644); err != nil {
		return nil, err
	}
	return r, nil
}

// svg draws throughput, latency and cost over the number of phones, in powers of
// two.
func (r *curveReport) svg() []byte {
	l := &chart.Lines{
		Title:  fmt.Sprintf("Capacity: round trips of %d-byte frames, one in flight per phone", r.Size),
		Note:   r.Date + "; " + r.Relay,
		Height: 190, XTitle: "phones", Dots: true,
	}
	last := max(math.Log2(float64(r.Steps[len(r.Steps)-1].Phones)), 1)
	for _, s := range r.Steps {
		x := math.Log2(float64(s.Phones)) / last
		l.X = append(l.X, x)
		l.XMarks = append(l.XMarks, chart.Mark{At: x, Text: strconv.Itoa(s.Phones)})
	}
	line := func(name, colour string, of func(step) float64) chart.Line {
		y := make([]float64, len(r.Steps))
		for i, s := range r.Steps {
			y[i] = of(s)
		}
		return chart.Line{Name: name, Colour: colour, Y: y}
	}
	l.Panels = []chart.Panel{
		{Title: "frames forwarded per second", Lines: []chart.Line{line("frames/s", chart.Blue, func(s step) float64 { return s.PerSecond })}},
		{Title: "round trip time, µs", Log: true, Lines: []chart.Line{
			line("p99", chart.Orange, func(s step) float64 { return s.P99 }),
			line("median", chart.Blue, func(s step) float64 { return s.P50 }),
		}},
	}
	if r.Steps[0].CPUPerFrame > 0 {
		l.Panels = append(l.Panels, chart.Panel{Title: "relay's processor time per frame, µs",
			Lines: []chart.Line{line("µs", chart.Green, func(s step) float64 { return s.CPUPerFrame })}})
	}
	return l.SVG()
}
