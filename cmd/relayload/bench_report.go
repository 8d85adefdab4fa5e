package main

import (
	"fmt"
	"io"
	"math"
	"slices"

	"github.com/pyrycode/pyrycode-relay/internal/load"
)

// benchRow has the samples of one candidate in one row, and their median.
type benchRow struct {
	Work        string        `json:"work,omitempty"`
	Candidate   string        `json:"candidate"`
	Connections int           `json:"connections,omitempty"`
	Median      load.Sample   `json:"median"`
	Rounds      []load.Sample `json:"rounds"`
}

func newBenchRow(work, candidate string, rounds []load.Sample) *benchRow {
	return &benchRow{Work: work, Candidate: candidate, Median: load.MedianSample(rounds), Rounds: rounds}
}

type benchReport struct {
	Date  string       `json:"date"`
	Relay string       `json:"relay,omitempty"` // its version line
	Cores int          `json:"processors"`
	Notes []string     `json:"notes,omitempty"` // candidates that are missing, and why
	Rows  []*benchRow  `json:"rows,omitempty"`
	Flood []*benchRow  `json:"flood,omitempty"`
	Idle  []*idleEntry `json:"idle,omitempty"`
	Among []*benchRow  `json:"among_idle,omitempty"`
	Busy  []*benchRow  `json:"all_busy,omitempty"`
	Goals []goal       `json:"goals,omitempty"`
}

type idleEntry struct {
	Candidate string `json:"candidate"`
	TLS       bool   `json:"tls"`
	*idleReport
}

// goal is one requirement and its result. Got is by processor time; Clock, if
// set, is the same ratio by wall-clock time.
type goal struct {
	What    string   `json:"what"`
	Bound   float64  `json:"bound"`
	Most    bool     `json:"at_most"` // otherwise Bound is the minimum
	Stretch bool     `json:"stretch"`
	Got     float64  `json:"got"`
	Clock   *float64 `json:"got_by_the_clock,omitempty"`
}

func (g goal) met(v float64) bool {
	if g.Most {
		return v <= g.Bound
	}
	return v >= g.Bound
}

// findRow returns the row of a candidate, or nil.
func findRow(rows []*benchRow, work, candidate string) *benchRow {
	for _, row := range rows {
		if row.Work == work && row.Candidate == candidate {
			return row
		}
	}
	return nil
}

// cost returns the processor time per frame of r relative to base.
func (r *benchRow) cost(base *benchRow) float64 {
	return r.Median.CPUPerFrame / base.Median.CPUPerFrame
}

// ratiosTo returns the throughput of r relative to base, per second of the
// relay's own processor time and by wall-clock time. The first is the
// candidate's cost. The second also depends on other work on the machine, unless
// the candidate has a processor for itself and uses it fully; in that case both
// agree.
func (r *benchRow) ratiosTo(base *benchRow) (processor, clock load.Ratio) {
	of := func(f func(own, base load.Sample) float64) load.Ratio {
		v := make([]float64, len(r.Rounds))
		for i := range v {
			v[i] = f(r.Rounds[i], base.Rounds[i])
		}
		return load.Ratio{Median: f(r.Median, base.Median), Least: slices.Min(v), Most: slices.Max(v)}
	}
	return of(func(own, base load.Sample) float64 { return base.CPUPerFrame / own.CPUPerFrame }),
		of(func(own, base load.Sample) float64 { return own.PerSecond / base.PerSecond })
}

// judge compares the results with the goals.
func (r *benchReport) judge() {
	least := func(what string, bound float64, stretch bool, cpu, clock load.Ratio) {
		if bound > 0 {
			r.Goals = append(r.Goals, goal{What: what, Bound: bound, Stretch: stretch, Got: cpu.Median, Clock: &clock.Median})
		}
	}
	most := func(what string, bound float64, stretch bool, got float64) {
		r.Goals = append(r.Goals, goal{What: what, Bound: bound, Most: true, Stretch: stretch, Got: got})
	}
	for _, w := range works {
		own := findRow(r.Rows, w.Name, "relay")
		if own == nil {
			continue
		}
		for _, g := range w.goals {
			base := findRow(r.Rows, w.Name, g.to)
			switch {
			case base == nil:
			case g.cost:
				most(w.Name+", CPU ÷ "+g.to, g.reach, false, own.cost(base))
				most(w.Name+", CPU ÷ "+g.to, g.stretch, true, own.cost(base))
			default:
				cpu, clock := own.ratiosTo(base)
				least(w.Name+", × "+g.to, g.reach, false, cpu, clock)
				least(w.Name+", × "+g.to, g.stretch, true, cpu, clock)
			}
		}
		if w.p99 > 0 {
			most(w.Name+", p99 ÷ baseline", w.p99, false, own.Median.P99/findRow(r.Rows, w.Name, "baseline").Median.P99)
		}
	}
	if plain, encrypted := findRow(r.Rows, rowPaced, "relay"), findRow(r.Rows, rowTLSPaced, "relay"); plain != nil && encrypted != nil {
		most("paced, CPU of TLS ÷ plain", 1.3, false, encrypted.cost(plain))
	}
	for _, i := range r.Idle {
		switch {
		case i.Candidate != "relay":
		case i.TLS:
			most("tls: idle, KB per connection", 9, false, i.RSS/1000)
			most("tls: idle, KB per connection", 8, true, i.RSS/1000)
			most("tls: idle, goroutines per connection", .01, false, i.Goroutines)
		default:
			most("idle, KB per connection", 2.5, false, i.RSS/1000)
			most("idle, KB per connection", 2, true, i.RSS/1000)
			most("idle, goroutines per connection", .01, false, i.Goroutines)
			most("idle, % of a processor for heartbeats", 1, false, i.CPU*100)
		}
	}
	if n := len(r.Among); n > 0 {
		lo, hi := math.Inf(1), 0.0
		for _, row := range r.Among {
			lo, hi = min(lo, row.Median.CPUPerFrame), max(hi, row.Median.CPUPerFrame)
		}
		most("growth among idle, dearest ÷ cheapest", 1.15, false, hi/lo)
	}
	var busy []*benchRow
	for _, row := range r.Busy {
		if row.Candidate == "relay" {
			busy = append(busy, row)
		}
	}
	if n := len(busy); n > 1 {
		most("growth all busy, CPU of most ÷ fewest connections", 1.5, false, busy[n-1].cost(busy[0]))
	}
}

// candidateOrder is the order of the candidates in the table.
var candidateOrder = []string{"baseline", "splice", "haproxy", "before", "relay"}

// Table implements load.Report.
func (r *benchReport) Table(w io.Writer) {
	fmt.Fprintf(w, "%s; %s; %d processors, one for the relay and one for this program\n", r.Date, r.Relay, r.Cores)
	for _, note := range r.Notes {
		fmt.Fprintln(w, note)
	}
	if len(r.Rows) > 0 {
		r.traffic(w)
	}
	if len(r.Flood) > 0 {
		r.flood(w)
	}
	for _, i := range r.Idle {
		fmt.Fprintf(w, "\n%s%s%s, ", i.Candidate, map[bool]string{true: " with TLS"}[i.TLS],
			map[bool]string{true: " (two sockets per connection)"}[copiesBytes(i.Candidate)])
		i.Table(w)
	}
	if len(r.Among) > 0 {
		fmt.Fprintf(w, "\n%s connections, one phone to each binary: round trips, 4 binaries × 8 phones × 4\n", rowAmong)
		for _, row := range r.Among {
			s := row.Median
			fmt.Fprintf(w, "  %6d idle   %10.0f frames per second %8.2f µs CPU per frame\n", row.Connections, s.PerSecond, s.CPUPerFrame)
		}
	}
	if len(r.Busy) > 0 {
		fmt.Fprintf(w, "\n%s, %d phones to each binary, a round trip in flight of each phone\n", rowBusy, busyPhones)
		for _, row := range r.Busy {
			s := row.Median
			fmt.Fprintf(w, "  %6d connections %-9s %10.0f frames per second %8.2f µs CPU per frame\n",
				row.Connections, row.Candidate, s.PerSecond, s.CPUPerFrame)
		}
	}
	r.goals(w)
}

// traffic prints the traffic rows.
func (r *benchReport) traffic(w io.Writer) {
	fmt.Fprintf(w, "\n%-29s %-9s %12s %7s %10s %5s %5s %8s %8s   %-19s %-19s\n",
		"frames forwarded: medians", "", "per CPU s", "µs CPU", "per second", "CPU", "gen.", "p50 µs", "p99 µs", "× baseline by CPU", "by the clock")
	for _, wk := range works {
		base := findRow(r.Rows, wk.Name, "baseline")
		for _, candidate := range candidateOrder {
			row := findRow(r.Rows, wk.Name, candidate)
			if row == nil {
				continue
			}
			s := row.Median
			fmt.Fprintf(w, "%-29s %-9s %12.0f %7.2f %10.0f %5.2f %5.2f %8s %8s", wk.describe(), candidate,
				1e6/s.CPUPerFrame, s.CPUPerFrame, s.PerSecond, s.CPU, s.GeneratorCPU, micros(s.P50), micros(s.P99))
			if candidate != "baseline" {
				cpu, clock := row.ratiosTo(base)
				fmt.Fprintf(w, "   %-19s %-19s", cpu, clock)
			}
			fmt.Fprintln(w)
		}
	}
}

// describe returns a row's name and its shape: binaries × phones × in flight, or
// binaries × phones and the round trips per second.
func (w work) describe() string {
	switch {
	case w.shape.Fanout:
		return w.Name
	case w.shape.Rate > 0:
		return fmt.Sprintf("%s %d×%d, %d/s", w.Name, w.shape.Binaries, w.shape.Phones, w.shape.Rate)
	}
	return fmt.Sprintf("%s %d×%d×%d", w.Name, w.shape.Binaries, w.shape.Phones, w.shape.Flight)
}

func micros(v float64) string {
	if v == 0 {
		return "–"
	}
	return fmt.Sprintf("%.0f", v)
}

func (r *benchReport) flood(w io.Writer) {
	fmt.Fprintf(w, "\n%s: 7 phones of a binary, a round trip in flight of each, alone and while an eighth phone floods with %d\n", rowFlood, floodFlight)
	fmt.Fprintf(w, "  %-9s %-7s %14s %10s %10s %16s\n", "", "", "round trips/s", "p50 µs", "p99 µs", "the flooder's/s")
	for _, row := range r.Flood {
		s := row.Median
		fmt.Fprintf(w, "  %-9s %-7s %14.0f %10.0f %10.0f %16s\n", row.Candidate, row.Work, s.PerSecond/2, s.P50, s.P99, micros(s.FloodPerSecond))
	}
}

func (r *benchReport) goals(w io.Writer) {
	if len(r.Goals) == 0 {
		return
	}
	fmt.Fprintf(w, "\n%-48s %-14s %18s %18s\n", "goals", "", "by CPU", "by the clock")
	for _, g := range r.Goals {
		kind, sign, clock := "reach", "≥", ""
		if g.Stretch {
			kind = "stretch"
		}
		if g.Most {
			sign = "≤"
		}
		if g.Clock != nil {
			clock = g.verdict(*g.Clock)
		}
		fmt.Fprintf(w, "%-48s %-7s %s %-5.4g %18s %18s\n", g.What, kind, sign, g.Bound, g.verdict(g.Got), clock)
	}
}

func (g goal) verdict(v float64) string {
	if g.met(v) {
		return fmt.Sprintf("%.3g  reached", v)
	}
	return fmt.Sprintf("%.3g   MISSED", v)
}
