package main

import (
	"cmp"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

type clusterCommand struct {
	FaultTest clusterFaultTest `cmd:"" name:"battery" help:"Three relays, clients, and a nemesis that kills, freezes and partitions: does anything overlap, is all served again in time?"`
	Benchmark clusterBenchmark `cmd:"" name:"figures" help:"Three relays and one alone: what a hop costs, how fast ids are claimed, how long after each fault all is served again (docs/cluster.md)."`
}

// clusterFlags are those of all commands about a cluster.
type clusterFlags struct {
	Relay string `default:"bin/pyrycode-relay" help:"The relay's program, which is started three times."`
	Out   string `default:"out/cluster" help:"A directory for the relays' logs and for pictures."`
	JSON  bool   `name:"json" help:"Print JSON, not a table."`
}

type clusterFaultTest struct {
	clusterFlags
	For   time.Duration `default:"30m" help:"How long the nemesis is at work; the last fault is mended and waited for beyond that."`
	IDs   int           `name:"ids" default:"40" help:"Server-ids; each has two binaries that want it and three phones."`
	Move  time.Duration `default:"5s" help:"How often each id is given up by its binary, on average, so that the other gets it."`
	Kinds []string      `help:"Kinds of faults, in turn: ${faults}. Default: all."`
	Seed  uint64        `help:"Of the nemesis' choices; 0: another each time."`
}

// knownFaults says which name is none of a fault.
func knownFaults(names []string) error {
	for _, k := range names {
		if !slices.Contains(faultNames(), k) {
			return usagef("there is no fault %q; there are %s", k, strings.Join(faultNames(), ", "))
		}
	}
	return nil
}

// Run is called by kong.
func (c *clusterFaultTest) Run(e *env) error {
	if len(c.Kinds) == 0 {
		c.Kinds = faultNames()
	}
	if err := knownFaults(c.Kinds); err != nil {
		return err
	}
	switch {
	case c.For < time.Second || c.For > maxSoak:
		return usagef("--for %s must be from 1s to %s", c.For, maxSoak)
	case c.IDs < 1 || c.Move < 500*time.Millisecond:
		return usagef("--ids must be 1 or more, --move 500ms or more")
	}
	if err := enoughFiles(c.IDs*2*12 + 200); err != nil {
		return err
	}
	if c.Seed == 0 {
		c.Seed = rand.Uint64()
	}
	t, err := newTrio(e.ctx, c.Relay, c.Out, "--drain-spread", "2s") // as behind a balancer
	if err != nil {
		return err
	}
	defer t.end()
	cc := startClients(e.ctx, t, c.IDs, c.Move, c.Seed)
	defer cc.end()
	r := &faultTestReport{Seed: c.Seed, IDs: c.IDs}
	if err := cc.servedSince(e.ctx, 0); err != nil {
		return err
	}
	r.Begun = clockNow()
	r.add(cc.injectFaults(e, c, r.Begun))
	cc.paused.Store(true)
	if len(r.Wrong) == 0 {
		if err := cc.servedSince(e.ctx, clockNow()); err != nil {
			r.add(nil, err)
		}
	}
	r.Ended = clockNow()
	cc.end()
	r.judge(cc)
	picture := filepath.Join(c.Out, "lanes.svg")
	if err := os.WriteFile(picture, r.svg(cc), 0o644); err != nil {
		return err
	}
	if len(r.longGaps) > 0 {
		if err := os.WriteFile(filepath.Join(c.Out, "stories.txt"), r.longGaps, 0o644); err != nil {
			return err
		}
	}
	if err := e.printReport(c.JSON, r); err != nil {
		return err
	}
	if n := len(r.Wrong) + r.More; n > 0 {
		return fmt.Errorf("%d things are wrong; the lanes are in %s, the relays' logs and what clients tried beside it", n, picture)
	}
	return nil
}

// injectFaults inflicts one fault after the other.
func (cc *clusterClients) injectFaults(e *env, c *clusterFaultTest, begun int64) (faults []*fault, err error) {
	rng := rand.New(rand.NewPCG(c.Seed, 1<<32))
	end := begun + int64(c.For)
	for round := 0; clockNow() < end; round++ {
		wait(e.ctx, min(between(rng, 2*time.Second, 5*time.Second), time.Duration(max(0, end-clockNow()))))
		k := kindOf(c.Kinds[round%len(c.Kinds)])
		e.progress.show("%.0f of %.0f s: %s; %d ids were given up", float64(clockNow()-begun)/1e9, c.For.Seconds(), k.name, cc.giveUps.Load())
		f, err := cc.inflict(e.ctx, k, rng)
		faults = append(faults, f)
		if err != nil {
			return faults, err
		}
	}
	return faults, e.ctx.Err()
}

// faultTestReport is what a battery showed.
type faultTestReport struct {
	Seed      uint64      `json:"seed"`
	IDs       int         `json:"ids"`
	Begun     int64       `json:"begun_ns"`
	Ended     int64       `json:"ended_ns"`
	Faults    []*fault    `json:"faults"`
	Rows      []*faultRow `json:"kinds"`
	Handovers int         `json:"handovers"`
	ToAnother int         `json:"handovers_to_another_relay"`
	Proofs    int         `json:"proofs"` // frames that prove who served
	Refused   int         `json:"claims_refused_4409"`
	Unknown   int         `json:"claims_unanswered_or_503"`
	Overlaps  []overlap   `json:"overlaps"`
	Wrong     []string    `json:"wrong"` // the first
	More      int         `json:"more_wrong"`

	longGaps []byte // what was tried while it took too long
}

// faultRow is how long it took to be served again after one kind of fault.
type faultRow struct {
	Kind   string    `json:"kind"`
	Times  int       `json:"times"`
	IDs    []float64 `json:"ids_seconds"`    // of each id that nobody got through to for a while
	Phones []float64 `json:"phones_seconds"` // of each phone that had to move though its binary had not
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

// judge looks at all lanes.
func (r *faultTestReport) judge(cc *clusterClients) {
	rows := make(map[string]*faultRow)
	for _, k := range faultKinds {
		row := &faultRow{Kind: k.name}
		for _, f := range r.Faults {
			if f.Kind == k.name {
				row.Times++
			}
		}
		if rows[k.name] = row; row.Times > 0 {
			r.Rows = append(r.Rows, row)
		}
	}
	for _, sid := range cc.ids {
		n, toAnother := handovers(sid.holdings)
		r.Handovers, r.ToAnother = r.Handovers+n, r.ToAnother+toAnother
		r.Refused, r.Unknown = r.Refused+len(sid.refused), r.Unknown+len(sid.failed)
		for _, h := range sid.holdings {
			r.Proofs += h.proofs
		}
		for _, o := range overlaps(sid.id, sid.holdings) {
			r.Overlaps = append(r.Overlaps, o)
			r.wrong("overlap: %s was served by binary %d at %s and by binary %d at %s, for %.3f s from %.1f s on",
				o.ServerID, o.First, cc.trio.members[o.a.node].name, o.Second, cc.trio.members[o.b.node].name, float64(o.To-o.From)/1e9, float64(o.From)/1e9)
		}
		if n := spurious(sid.refused, sid.holdings); n > 0 {
			r.wrong("%s: %d claims were answered 4409 while nobody held the id", sid.id, n)
		}
		for _, s := range sid.violations {
			r.wrong("%s", s)
		}
		for _, g := range sid.gaps {
			f, t := g.judge(r.Faults)
			what := "while nothing had failed"
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
	}
}

// describeGap tells of a gap that was too long what its binaries tried meanwhile.
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
		all = append(all, event{h.dialled, fmt.Sprintf("binary %d at %d is upgraded, ends at %.3f with %d; given up: %v, silent: %v; %d frames", h.number, h.node+1, float64(h.ended)/1e9, h.code, h.givenUp.Load(), h.silent.Load(), h.proofs)})
	}
	slices.SortFunc(all, func(a, b event) int { return cmp.Compare(a.at, b.at) })
	r.longGaps = fmt.Appendf(r.longGaps, "%s: %s\n", sid.id, g)
	for _, e := range all {
		if e.at > g.from-int64(30*time.Second) && e.at < g.to {
			r.longGaps = fmt.Appendf(r.longGaps, "  %.3f %s\n", float64(e.at)/1e9, e.what)
		}
	}
}

func (r *faultTestReport) table(w io.Writer) {
	fmt.Fprintf(w, "three relays, %d server-ids, %.0f s, seed %d\n", r.IDs, float64(r.Ended-r.Begun)/1e9, r.Seed)
	fmt.Fprintf(w, "  %d handovers, %d of them to another relay, %d overlaps (judged by %d frames)\n", r.Handovers, r.ToAnother, len(r.Overlaps), r.Proofs)
	fmt.Fprintf(w, "  claims: %d were answered 4409, spurious ones are told below; %d got 503 or no answer\n\n", r.Refused, r.Unknown)
	fmt.Fprintf(w, "  %-16s %6s   %-34s %s\n", "fault", "times", "ids not served for 0.5 s or more", "phones that had to move, binaries not")
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

// describeTimes is times in a few words.
func describeTimes(s []float64) string {
	if len(s) == 0 {
		return "none"
	}
	slices.Sort(s)
	return fmt.Sprintf("%d: median %.1f s, worst %.1f s", len(s), s[len(s)/2], s[len(s)-1])
}
