package main

import (
	"bytes"
	"fmt"
	"html"
	"io"
	"math"
	"os"
	"runtime"
	"strconv"
	"time"
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
	sample
}

type curveReport struct {
	Date  string `json:"date"`
	Relay string `json:"relay"` // its version line or its URL
	Size  int    `json:"frame_bytes"`
	Steps []step `json:"steps"`
}

func (r *curveReport) table(w io.Writer) {
	fmt.Fprintf(w, "%s; %s\n", r.Date, r.Relay)
	fmt.Fprintf(w, "round trips, one in flight per phone, frames of %d bytes\n", r.Size)
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
		runtime.GOMAXPROCS(1) // leaves the other processor to the relay
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

// panel is one diagram of the curve. Its x axis is the number of phones, in
// powers of two.
type panel struct {
	title string
	log   bool
	lines []line
}

type line struct {
	name, colour string
	y            func(step) float64
}

// svg draws throughput, latency and cost.
func (r *curveReport) svg() []byte {
	const blue, orange, green = "#1f6feb", "#d9730d", "#2e8540"
	panels := []panel{
		{"frames forwarded per second", false, []line{{"frames/s", blue, func(s step) float64 { return s.PerSecond }}}},
		{"round trip time, µs", true, []line{
			{"p99", orange, func(s step) float64 { return s.P99 }},
			{"median", blue, func(s step) float64 { return s.P50 }},
		}},
	}
	if r.Steps[0].CPUPerFrame > 0 {
		panels = append(panels, panel{"relay's processor time per frame, µs", false, []line{{"µs", green, func(s step) float64 { return s.CPUPerFrame }}}})
	}
	const width, height, left, top, gap = 760, 190, 90, 60, 70
	var b bytes.Buffer
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="13">`+"\n",
		left+width+60, top+len(panels)*(height+gap))
	fmt.Fprintf(&b, `<rect width="100%%" height="100%%" fill="white"/>`+"\n")
	fmt.Fprintf(&b, `<text x="%d" y="26" font-size="17">Capacity: round trips of %d-byte frames, one in flight per phone</text>`+"\n", left, r.Size)
	fmt.Fprintf(&b, `<text x="%d" y="%d" fill="#555">%s; %s</text>`+"\n", left, top+len(panels)*(height+gap)-8, r.Date, html.EscapeString(r.Relay))
	for i, p := range panels {
		r.panel(&b, p, left, top+i*(height+gap), width, height)
	}
	b.WriteString("</svg>\n")
	return b.Bytes()
}

func (r *curveReport) panel(b *bytes.Buffer, p panel, left, top, width, height int) {
	low, high := math.Inf(1), 0.0
	for _, s := range r.Steps {
		for _, l := range p.lines {
			low, high = min(low, l.y(s)), max(high, l.y(s))
		}
	}
	grid := []float64{0}
	y := func(v float64) float64 { return float64(top+height) - v/high*float64(height) }
	if p.log {
		low = math.Pow(10, math.Floor(math.Log10(max(low, 1))))
		high = math.Pow(10, math.Ceil(math.Log10(max(high, low*10))))
		y = func(v float64) float64 {
			return float64(top+height) - math.Log10(max(v, low)/low)/math.Log10(high/low)*float64(height)
		}
		grid = nil
		for v := low; v <= high*1.001; v *= 10 {
			grid = append(grid, v)
		}
	} else {
		unit := nice(high / 4)
		high = math.Ceil(high/unit) * unit
		for v := unit; v <= high*1.001; v += unit {
			grid = append(grid, v)
		}
	}
	last := math.Log2(float64(r.Steps[len(r.Steps)-1].Phones))
	x := func(s step) float64 {
		return float64(left) + math.Log2(float64(s.Phones))/max(last, 1)*float64(width)
	}
	fmt.Fprintf(b, `<text x="%d" y="%d" font-weight="bold">%s</text>`+"\n", left, top-10, p.title)
	for _, v := range grid {
		fmt.Fprintf(b, `<line x1="%d" y1="%.1f" x2="%d" y2="%.1f" stroke="#ddd"/><text x="%d" y="%.1f" text-anchor="end">%s</text>`+"\n",
			left, y(v), left+width, y(v), left-8, y(v)+4, number(v))
	}
	for _, s := range r.Steps {
		fmt.Fprintf(b, `<text x="%.1f" y="%d" text-anchor="middle">%d</text>`+"\n", x(s), top+height+18, s.Phones)
	}
	fmt.Fprintf(b, `<text x="%d" y="%d" text-anchor="middle" fill="#555">phones</text>`+"\n", left+width/2, top+height+36)
	for i, l := range p.lines {
		fmt.Fprintf(b, `<polyline fill="none" stroke="%s" stroke-width="2" points="`, l.colour)
		for _, s := range r.Steps {
			fmt.Fprintf(b, "%.1f,%.1f ", x(s), y(l.y(s)))
		}
		b.WriteString(`"/>` + "\n")
		for _, s := range r.Steps {
			fmt.Fprintf(b, `<circle cx="%.1f" cy="%.1f" r="3" fill="%s"/>`, x(s), y(l.y(s)), l.colour)
		}
		if len(p.lines) > 1 {
			fmt.Fprintf(b, `<text x="%d" y="%d" fill="%s">● %s</text>`+"\n", left+width-70*(i+1), top-10, l.colour, l.name)
		}
	}
}

// nice rounds v up to 1, 2 or 5 times a power of ten.
func nice(v float64) float64 {
	p := math.Pow(10, math.Floor(math.Log10(v)))
	for _, m := range []float64{1, 2, 5} {
		if v <= m*p {
			return m * p
		}
	}
	return 10 * p
}

func number(v float64) string {
	switch {
	case v >= 1e6:
		return strconv.FormatFloat(v/1e6, 'g', 4, 64) + " M"
	case v >= 1e4:
		return strconv.FormatFloat(v/1e3, 'g', 4, 64) + " k"
	}
	return strconv.FormatFloat(v, 'g', 4, 64)
}
