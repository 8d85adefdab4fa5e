package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/chart"
)

// faultTestReport is the result of the fault tests.
type faultTestReport struct {
	Seed      uint64      `json:"seed"`
	IDs       int         `json:"ids"`
	Begun     int64       `json:"begun_ns"`
	Ended     int64       `json:"ended_ns"`
	Faults    []*fault    `json:"faults"`
	Rows      []*faultRow `json:"kinds"`
	Handovers int         `json:"handovers"`
	ToAnother int         `json:"handovers_to_another_relay"`
	Proofs    int         `json:"proofs"` // frames that prove which connection served
	Refused   int         `json:"claims_refused_4409"`
	Unknown   int         `json:"claims_unanswered_or_503"`
	Overlaps  []overlap   `json:"overlaps"`
	Wrong     []string    `json:"wrong"` // the first 20 failures
	More      int         `json:"more_wrong"`

	longGaps []byte // the binaries' attempts during the gaps that were too long
}

// faultRow has the recovery times after one kind of fault.
type faultRow struct {
	Kind   string    `json:"kind"`
	Times  int       `json:"times"`
	IDs    []float64 `json:"ids_seconds"`    // of each id without answers for a while
	Phones []float64 `json:"phones_seconds"` // of each phone that had to reconnect although its binary did not
}

func (r *faultTestReport) add(faults []*fault, err error) {
	r.Faults = append(r.Faults, faults...)
	if err != nil {
		r.wrong("%v", err)
	}
}

func (r *faultTestReport) wrong(format string, a ...any) {
	if len(r.Wrong) >= 20 {
		r.More++
		return
	}
	r.Wrong = append(r.Wrong, fmt.Sprintf(format, a...))
}

// judge checks the observations of all server-ids.
func (r *faultTestReport) judge(cc *clusterClients) {
	rows := make(map[string]*faultRow)
	for _, f := range r.Faults {
		if rows[f.Kind] == nil {
			rows[f.Kind] = &faultRow{Kind: f.Kind}
		}
		rows[f.Kind].Times++
	}
	for _, name := range faultNames() {
		if row := rows[name]; row != nil {
			r.Rows = append(r.Rows, row)
		}
	}
	for _, sid := range cc.ids {
		n, toAnother := handovers(sid.holdings)
		r.Handovers, r.ToAnother = r.Handovers+n, r.ToAnother+toAnother
		r.Refused, r.Unknown = r.Refused+sid.refused, r.Unknown+len(sid.failed)
		for _, h := range sid.holdings {
			r.Proofs += h.proofs.N
		}
		for _, o := range overlaps(sid.id, sid.holdings) {
			r.Overlaps = append(r.Overlaps, o)
			r.wrong("overlap: binary %d at %s and binary %d at %s served %s concurrently, for %.3f s from %.1f s on",
				o.First, cc.trio.members[o.a.node].name, o.Second, cc.trio.members[o.b.node].name, o.ServerID, float64(o.To-o.From)/1e9, float64(o.From)/1e9)
		}
		for _, g := range sid.gaps {
			r.judgeGap(cc, rows, sid, g)
		}
	}
	for _, s := range judgeHistory(cc.history.Events()) {
		r.wrong("%s", s)
	}
}

// judgeGap adds a gap of an id to the row of its fault, and checks its duration.
func (r *faultTestReport) judgeGap(cc *clusterClients, rows map[string]*faultRow, sid *serverID, g gap) {
	f, t := g.judge(r.Faults)
	what := "without a fault"
	if f != nil {
		what = "after " + f.Kind + " of " + cc.trio.members[f.Victim].name
		switch row := rows[f.Kind]; {
		case t.phones:
			row.Phones = append(row.Phones, t.d.Seconds())
		case g.phone == phonesPerID:
			row.IDs = append(row.IDs, t.d.Seconds())
		}
	}
	if t.d > t.most {
		r.wrong("%s: %s: %s; at most %s %s", sid.id, g, t.d.Round(time.Millisecond), t.most, what)
		r.describeGap(sid, g)
	}
}

// describeGap appends to longGaps the claims and connections of the id's
// binaries during g.
func (r *faultTestReport) describeGap(sid *serverID, g gap) {
	type event struct {
		at   int64
		what string
	}
	var all []event
	for _, a := range sid.failed {
		all = append(all, event{a.dialled, fmt.Sprintf("claim at %d fails after %.3f s: %v", a.node+1, float64(a.ended-a.dialled)/1e9, a.err)})
	}
	for _, h := range sid.holdings {
		all = append(all, event{h.dialled, fmt.Sprintf("binary %d at %d is upgraded, ends at %.3f with %d; gave up: %v, silent: %v; %d frames", h.number, h.node+1, float64(h.ended)/1e9, h.code, h.givenUp.Load(), h.silent.Load(), h.proofs.N)})
	}
	slices.SortFunc(all, func(a, b event) int { return cmp.Compare(a.at, b.at) })
	r.longGaps = fmt.Appendf(r.longGaps, "%s: %s\n", sid.id, g)
	for _, e := range all {
		if e.at > g.from-int64(30*time.Second) && e.at < g.to {
			r.longGaps = fmt.Appendf(r.longGaps, "  %.3f %s\n", float64(e.at)/1e9, e.what)
		}
	}
}

// Table implements load.Report.
func (r *faultTestReport) Table(w io.Writer) {
	fmt.Fprintf(w, "%d server-ids, %.0f s, seed %d\n", r.IDs, float64(r.Ended-r.Begun)/1e9, r.Seed)
	fmt.Fprintf(w, "  %d handovers, %d of them to another relay, %d overlaps (judged by %d frames)\n", r.Handovers, r.ToAnother, len(r.Overlaps), r.Proofs)
	fmt.Fprintf(w, "  claims: %d closed with 4409, the spurious ones are listed below; %d with 503 or no answer\n\n", r.Refused, r.Unknown)
	fmt.Fprintf(w, "  %-16s %6s   %-34s %s\n", "fault", "times", "ids not served for 0.5 s or more", "phones that had to move, not binaries")
	for _, row := range r.Rows {
		fmt.Fprintf(w, "  %-16s %6d   %-34s %s\n", row.Kind, row.Times, describeTimes(row.IDs), describeTimes(row.Phones))
	}
	for _, s := range r.Wrong {
		fmt.Fprintf(w, "WRONG: %s\n", s)
	}
	if r.More > 0 {
		fmt.Fprintf(w, "WRONG: %d more\n", r.More)
	}
}

// describeTimes summarizes times in seconds. It sorts s.
func describeTimes(s []float64) string {
	if len(s) == 0 {
		return "none"
	}
	slices.Sort(s)
	return fmt.Sprintf("%d: median %.1f s, worst %.1f s", len(s), s[len(s)/2], s[len(s)-1])
}

// nodeColours are the colours of the relays.
var nodeColours = []string{chart.Blue, chart.Green, chart.Yellow, "#9467bd", "#8c564b"}

// maxDrawn is the number of server-ids in the diagram; those with an overlap
// come first.
const maxDrawn = 24

// svg draws a bar for each binary's connection, from the first to the last time
// at which it certainly served, in the colour of its relay. Faults are grey
// bands and overlaps are red.
func (r *faultTestReport) svg(cc *clusterClients) []byte {
	ids := slices.Clone(cc.ids)
	bad := make(map[string]int)
	for _, o := range r.Overlaps {
		bad[o.ServerID]++
	}
	slices.SortStableFunc(ids, func(a, b *serverID) int { return cmp.Compare(bad[b.id], bad[a.id]) })
	seconds := func(t int64) float64 { return float64(t-r.Begun) / 1e9 }
	d := &chart.Bars{
		Title: fmt.Sprintf("Connections that served each server-id: %d handovers, %d overlaps", r.Handovers, len(r.Overlaps)),
		End:   seconds(r.Ended),
	}
	for i, m := range cc.trio.members {
		d.Legend = append(d.Legend, chart.Line{Name: "at " + m.name, Colour: nodeColours[i]})
	}
	d.Legend = append(d.Legend, chart.Line{Name: "two relays", Colour: chart.Red})
	for _, f := range r.Faults {
		end := f.Repaired
		if end == 0 {
			end = r.Ended
		}
		d.Bands = append(d.Bands, chart.Bar{From: seconds(f.Begin), To: seconds(end), Name: fmt.Sprintf("%s %d", f.Kind, f.Victim+1), Colour: "#e8e8e8"})
	}
	for _, sid := range ids[:min(len(ids), maxDrawn)] {
		row := chart.Row{Name: sid.id}
		for _, h := range proven(sid.holdings) {
			row.Bars = append(row.Bars, chart.Bar{From: seconds(h.proofs.MinEnd), To: seconds(max(h.proofs.MinEnd, h.proofs.MaxStart)), Colour: nodeColours[h.node]})
		}
		for _, o := range r.Overlaps {
			if o.ServerID == sid.id {
				row.Bars = append(row.Bars, chart.Bar{From: seconds(o.From), To: seconds(o.To), Colour: chart.Red, Full: true})
			}
		}
		d.Rows = append(d.Rows, row)
	}
	return d.SVG()
}
