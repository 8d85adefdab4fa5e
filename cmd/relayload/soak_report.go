package main

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"time"
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
	UnexpectedCount int            `json:"odd_events"`
	Unexpected      []string       `json:"odd,omitempty"`
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
		for i, sid := range steady {
			switch {
			case i < third:
				first = append(first, g.of(sid))
			case i >= len(steady)-third:
				last = append(last, g.of(sid))
			}
		}
		t := trend{Name: g.name, First: median(first), Last: median(last)}
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

func (r *soakReport) table(w io.Writer) {
	last := r.Samples[len(r.Samples)-1]
	fmt.Fprintf(w, "soak: %s, %d samples; at the end %.0f binaries, %.0f phones, %.0f slots in grace\n",
		(time.Duration(last.At) * time.Second).Round(time.Second), len(r.Samples), last.Binaries, last.Phones, last.InGrace)
	fmt.Fprintf(w, "  %-22s %9s %11s %10s %20s %9s\n", "", "start", "first third", "last third", "per hour", "end")
	ends := map[string][2]float64{
		growthChecks[0].name: {growthChecks[0].of(r.Before), growthChecks[0].of(r.After)}, growthChecks[1].name: {growthChecks[1].of(r.Before), growthChecks[1].of(r.After)},
		growthChecks[2].name: {growthChecks[2].of(r.Before), growthChecks[2].of(r.After)}, growthChecks[3].name: {growthChecks[3].of(r.Before), growthChecks[3].of(r.After)},
	}
	for _, t := range r.Trends {
		fmt.Fprintf(w, "  %-22s %9.1f %11.1f %10.1f %20s %9.1f\n", t.Name, ends[t.Name][0], t.First, t.Last,
			fmt.Sprintf("%+.2f ± %.2f", t.Slope, 2*t.Error), ends[t.Name][1])
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
		fmt.Fprintln(w, "  verdict: no slope; descriptors and goroutines are back at the start; /debug/check was ok every time")
	}
	for _, s := range r.Wrong {
		fmt.Fprintf(w, "  WRONG: %s\n", s)
	}
}

// svg draws the samples over time.
func (r *soakReport) svg() []byte {
	const width, height, left, top, gap = 760, 110, 90, 56, 46
	panels := []struct {
		title string
		of    []func(soakSample) float64
		names []string
	}{
		{"resident memory and heap goal, MiB", []func(soakSample) float64{growthChecks[0].of, growthChecks[1].of}, []string{"resident", "heap goal"}},
		{"goroutines and open files", []func(soakSample) float64{growthChecks[2].of, growthChecks[3].of}, []string{"goroutines", "files"}},
		{"phones and binaries connected", []func(soakSample) float64{
			func(l soakSample) float64 { return l.Phones }, func(l soakSample) float64 { return l.Binaries }}, []string{"phones", "binaries"}},
	}
	colours := []string{"#1f6feb", "#d9730d"}
	last := r.Samples[len(r.Samples)-1].At
	var b bytes.Buffer
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="13">`+"\n",
		left+width+40, top+len(panels)*(height+gap)+10)
	fmt.Fprintf(&b, `<rect width="100%%" height="100%%" fill="white"/>`+"\n")
	fmt.Fprintf(&b, `<text x="%d" y="24" font-size="17">Soak: %s under churn, reconnects, stalls, takeovers and bad frames</text>`+"\n",
		left, (time.Duration(last) * time.Second).Round(time.Minute))
	for i, p := range panels {
		y0 := top + i*(height+gap) + height
		high := 1.0
		for _, l := range r.Samples {
			for _, of := range p.of {
				high = max(high, of(l))
			}
		}
		unit := nice(high / 3)
		high = math.Ceil(high/unit) * unit
		fmt.Fprintf(&b, `<text x="%d" y="%d" font-weight="bold">%s</text>`+"\n", left, y0-height-8, p.title)
		for v := 0.0; v <= high*1.001; v += unit {
			y := float64(y0) - v/high*height
			fmt.Fprintf(&b, `<line x1="%d" y1="%.1f" x2="%d" y2="%.1f" stroke="#ddd"/><text x="%d" y="%.1f" text-anchor="end">%s</text>`+"\n",
				left, y, left+width, y, left-8, y+4, number(v))
		}
		for k, of := range p.of {
			fmt.Fprintf(&b, `<polyline fill="none" stroke="%s" stroke-width="1.5" points="`, colours[k])
			for _, l := range r.Samples {
				fmt.Fprintf(&b, "%.1f,%.1f ", left+l.At/last*width, float64(y0)-of(l)/high*height)
			}
			fmt.Fprintf(&b, `"/><text x="%d" y="%d" fill="%s">● %s</text>`+"\n", left+width-95*(k+1), y0-height-8, colours[k], p.names[k])
		}
		for m := 0.0; m <= 1; m += .25 {
			fmt.Fprintf(&b, `<text x="%.0f" y="%d" text-anchor="middle" fill="#555">%.0f min</text>`+"\n", left+m*width, y0+18, m*last/60)
		}
	}
	b.WriteString("</svg>\n")
	return b.Bytes()
}
