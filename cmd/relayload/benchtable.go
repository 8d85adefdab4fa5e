package main

import (
	"fmt"
	"io"
)

// contestants in the order in which the table has them.
var candidateOrder = []string{"baseline", "splice", "before", "relay"}

func (r *benchReport) table(w io.Writer) {
	fmt.Fprintf(w, "%s; %s; %d processors, one for the relay and one for this program\n", r.Date, r.Relay, r.Cores)
	if len(r.Rows) > 0 {
		r.traffic(w)
	}
	if len(r.Flood) > 0 {
		r.flood(w)
	}
	for _, i := range r.Idle {
		fmt.Fprintf(w, "\n%s%s, ", i.Candidate, map[bool]string{true: " with TLS"}[i.TLS])
		i.table(w)
	}
	if len(r.Among) > 0 {
		fmt.Fprintf(w, "\n%s connections, one phone to each binary: round trips, 4 binaries × 8 phones × 4\n", rowAmong)
		for _, row := range r.Among {
			s := row.Median
			fmt.Fprintf(w, "  %6d idle   %10.0f frames per second %8.2f µs CPU per frame\n", row.Connections, s.PerSecond, s.CPUPerFrame)
		}
	}
	if len(r.Busy) > 0 {
		fmt.Fprintf(w, "\n%s, %d phones to each binary, a round trip under way of each phone\n", rowBusy, busyPhones)
		for _, row := range r.Busy {
			s := row.Median
			fmt.Fprintf(w, "  %6d connections %-9s %10.0f frames per second %8.2f µs CPU per frame\n",
				row.Connections, row.Candidate, s.PerSecond, s.CPUPerFrame)
		}
	}
	r.goals(w)
}

// traffic is the rows that compare.
func (r *benchReport) traffic(w io.Writer) {
	fmt.Fprintf(w, "\n%-29s %-9s %12s %10s %5s %5s %8s %8s   %-19s %-19s\n",
		"frames forwarded: medians", "", "per CPU s", "per second", "CPU", "gen.", "p50 µs", "p99 µs", "× baseline by CPU", "by the clock")
	for _, wk := range works {
		base := findRow(r.Rows, wk.Name, "baseline")
		for _, candidate := range candidateOrder {
			row := findRow(r.Rows, wk.Name, candidate)
			if row == nil {
				continue
			}
			s := row.Median
			fmt.Fprintf(w, "%-29s %-9s %12.0f %10.0f %5.2f %5.2f %8s %8s", wk.describe(), candidate,
				1e6/s.CPUPerFrame, s.PerSecond, s.CPU, s.GeneratorCPU, micros(s.P50), micros(s.P99))
			if candidate != "baseline" {
				cpu, clock := row.ratiosTo(base)
				fmt.Fprintf(w, "   %-19s %-19s", cpu, clock)
			}
			fmt.Fprintln(w)
		}
	}
}

// describe is a row's name and its numbers: binaries × phones × in flight.
func (w work) describe() string {
	if w.shape.fanout {
		return w.Name
	}
	return fmt.Sprintf("%s %d×%d×%d", w.Name, w.shape.binaries, w.shape.phones, w.shape.flight)
}

func micros(v float64) string {
	if v == 0 {
		return "–"
	}
	return fmt.Sprintf("%.0f", v)
}

func (r *benchReport) flood(w io.Writer) {
	fmt.Fprintf(w, "\n%s: 7 phones of a binary, a round trip under way of each, alone and beside an eighth with %d\n", rowFlood, floodFlight)
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
