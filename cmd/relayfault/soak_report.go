package main

import (
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/chart"
	"github.com/pyrycode/pyrycode-relay/internal/load"
)

// soakReport is the result of a soak.
type soakReport struct {
	Before          soakSample     `json:"before"`
	After           soakSample     `json:"after"`
	Samples         []soakSample   `json:"samples"`
	Rounds          map[string]int `json:"rounds"`
	Trends          []trend        `json:"trends"`
	CPU             float64        `json:"relay_cpu"`
	Generator       float64        `json:"generator_cpu"`
	UnexpectedCount int            `json:"unexpected_events"`
	Unexpected      []string       `json:"unexpected,omitempty"`
	Wrong           []string       `json:"wrong,omitempty"`
}

// trend is the growth of one value after the first sixth of the run, in which it
// rises to the level of the load.
type trend struct {
	Name  string  `json:"name"`
	First float64 `json:"median_of_first_third"`
	Last  float64 `json:"median_of_last_third"`
	Slope float64 `json:"per_hour"`          // least squares
	Error float64 `json:"per_hour_standard"` // its standard error, as if samples were independent
	Most  float64 `json:"allowed"`           // the maximum of Last - First
}

// growthChecks are the values that must not grow. A value grows if it rises by
// more than fraction, and by more than floor.
var growthChecks = []struct {
	name            string
	of              func(soakSample) float64
	fraction, floor float64
}{
	{"resident memory, MiB", func(l soakSample) float64 { return l.RSS / (1 << 20) }, .05, 2},
	{"heap goal, MiB", func(l soakSample) float64 { return l.NextGC / (1 << 20) }, .05, 2},
	{"goroutines", func(l soakSample) float64 { return l.Goroutines }, .05, 10},
	{"open files", func(l soakSample) float64 { return l.FDs }, .05, 10},
}

// allowedExtra is the permitted difference in goroutines and descriptors between
// the end and the start. The runtime and one scrape account for it.
const allowedExtra = 2

// judge sets Trends, Wrong and CPU.
func (r *soakReport) judge() {
	wrong := func(format string, a ...any) { r.Wrong = append(r.Wrong, fmt.Sprintf(format, a...)) }
	steady := r.Samples[len(r.Samples)/6:]
	third := len(steady) / 3
	for _, g := range growthChecks {
		var first, last []float64
		for i, s := range steady {
			switch {
			case i < third:
				first = append(first, g.of(s))
			case i >= len(steady)-third:
				last = append(last, g.of(s))
			}
		}
		t := trend{Name: g.name, First: load.Median(first), Last: load.Median(last)}
		t.Slope, t.Error = slope(steady, g.of)
		t.Most = max(g.fraction*t.First, g.floor)
		if t.Last-t.First > t.Most {
			wrong("%s grew from %.1f to %.1f; the limit is %.1f more", g.name, t.First, t.Last, t.Most)
		}
		r.Trends = append(r.Trends, t)
	}
	if r.After.Goroutines > r.Before.Goroutines+allowedExtra {
		wrong("%.0f goroutines at the end, %.0f at the start", r.After.Goroutines, r.Before.Goroutines)
	}
	if r.After.FDs > r.Before.FDs+allowedExtra {
		wrong("%.0f open files at the end, %.0f at the start", r.After.FDs, r.Before.FDs)
	}
	if r.UnexpectedCount > 0 {
		wrong("%d unexpected events", r.UnexpectedCount)
	}
	if n := len(r.Samples); n > 1 {
		r.CPU = (r.Samples[n-1].CPU - r.Samples[0].CPU) / (r.Samples[n-1].At - r.Samples[0].At)
	}
}

// slope returns the least-squares slope per hour and its standard error.
func slope(samples []soakSample, of func(soakSample) float64) (perHour, stderr float64) {
	n := float64(len(samples))
	var sx, sy float64
	for _, l := range samples {
		sx, sy = sx+l.At, sy+of(l)
	}
	var sxx, sxy float64
	for _, l := range samples {
		sxx += (l.At - sx/n) * (l.At - sx/n)
		sxy += (l.At - sx/n) * (of(l) - sy/n)
	}
	if sxx == 0 || n < 3 {
		return math.NaN(), math.NaN()
	}
	b := sxy / sxx
	var rest float64
	for _, l := range samples {
		d := of(l) - sy/n - b*(l.At-sx/n)
		rest += d * d
	}
	return b * 3600, math.Sqrt(rest/(n-2)/sxx) * 3600
}

// Table implements load.Report.
func (r *soakReport) Table(w io.Writer) {
	last := r.Samples[len(r.Samples)-1]
	fmt.Fprintf(w, "soak: %s, %d samples; at the end %.0f binaries, %.0f phones, %.0f slots in grace\n",
		(time.Duration(last.At) * time.Second).Round(time.Second), len(r.Samples), last.Binaries, last.Phones, last.InGrace)
	fmt.Fprintf(w, "  %-22s %9s %11s %10s %20s %9s\n", "", "start", "first third", "last third", "per hour", "end")
	for i, t := range r.Trends {
		of := growthChecks[i].of
		fmt.Fprintf(w, "  %-22s %9.1f %11.1f %10.1f %20s %9.1f\n", t.Name, of(r.Before), t.First, t.Last,
			fmt.Sprintf("%+.2f ± %.2f", t.Slope, 2*t.Error), of(r.After))
	}
	fmt.Fprintf(w, "  the relay used %.1f %% of a processor, this program %.1f %%\n", 100*r.CPU, 100*r.Generator)
	fmt.Fprint(w, "  rounds:")
	for _, name := range slices.Sorted(maps.Keys(r.Rounds)) {
		fmt.Fprintf(w, " %s %d;", name, r.Rounds[name])
	}
	fmt.Fprintln(w)
	for _, o := range r.Unexpected {
		fmt.Fprintf(w, "  unexpected: %s\n", o)
	}
	if len(r.Wrong) == 0 {
		fmt.Fprintln(w, "  verdict: nothing grew; goroutines and files are back at their numbers of the start; /debug/check was ok every time")
	}
	for _, s := range r.Wrong {
		fmt.Fprintf(w, "  WRONG: %s\n", s)
	}
}

// svg draws the samples over time.
func (r *soakReport) svg() []byte {
	last := r.Samples[len(r.Samples)-1].At
	l := &chart.Lines{
		Title:  fmt.Sprintf("Soak: %s under churn, reconnects, stalls, takeovers and bad frames", (time.Duration(last) * time.Second).Round(time.Minute)),
		Height: 110,
	}
	for _, s := range r.Samples {
		l.X = append(l.X, s.At/last)
	}
	for m := 0.0; m <= 1; m += .25 {
		l.XMarks = append(l.XMarks, chart.Mark{At: m, Text: fmt.Sprintf("%.0f min", m*last/60)})
	}
	line := func(name, colour string, of func(soakSample) float64) chart.Line {
		y := make([]float64, len(r.Samples))
		for i, s := range r.Samples {
			y[i] = of(s)
		}
		return chart.Line{Name: name, Colour: colour, Y: y}
	}
	g := growthChecks
	l.Panels = []chart.Panel{
		{Title: "resident memory and heap goal, MiB", Lines: []chart.Line{line("resident", chart.Blue, g[0].of), line("heap goal", chart.Orange, g[1].of)}},
		{Title: "goroutines and open files", Lines: []chart.Line{line("goroutines", chart.Blue, g[2].of), line("files", chart.Orange, g[3].of)}},
		{Title: "phones and binaries connected", Lines: []chart.Line{
			line("phones", chart.Blue, func(l soakSample) float64 { return l.Phones }),
			line("binaries", chart.Orange, func(l soakSample) float64 { return l.Binaries })}},
	}
	return l.SVG()
}
