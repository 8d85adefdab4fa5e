package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"sync/atomic"
	"time"
)

type benchCommand struct {
	Relay  string        `default:"" help:"The relay's program; the one beside this by default."`
	Before string        `placeholder:"PROGRAM" help:"Another build of the relay, to compare with."`
	Rounds int           `default:"5" help:"Rounds; what is compared takes turns in each. Medians are printed."`
	For    time.Duration `default:"1s" help:"How long each turn is."`
	Only   string        `default:"" placeholder:"REGEXP" help:"Rows to run."`
	Conns  int           `default:"10000" help:"Connections of the rows about idle ones."`
	Beat   time.Duration `default:"33s" help:"How long heartbeats are watched; one comes every 30s."`
	JSON   bool          `name:"json" help:"Print JSON, not a table."`
}

// work is one row about traffic. Reach and stretch are issue 5's.
type work struct {
	Name  string
	shape shape
	reach float64 // times the baseline
	// stretch is times the splice, or the baseline where there is none.
	stretch float64
	splice  bool
}

var works = []work{
	{"round trips 4×8×4", shape{binaries: 4, phones: 8, size: 512, flight: 4}, 8, 1.2, true},
	{"one binary to 16 phones", shape{binaries: 1, phones: 16, size: 512, flight: 64, fanout: true}, 15, 25, false},
	{"8 KiB round trips 4×8×4", shape{binaries: 4, phones: 8, size: 8 << 10, flight: 4}, 7, 10, false},
	{"one in flight 4×8×1", shape{binaries: 4, phones: 8, size: 512, flight: 1}, 2.3, 1.5, true},
}

// benchRow is the medians of one row and one contestant.
type benchRow struct {
	Work       string   `json:"work"`
	Contestant string   `json:"contestant"`
	Median     sample   `json:"median"`
	Rounds     []sample `json:"rounds"`
}

type benchReport struct {
	Date  string       `json:"date"`
	Rows  []*benchRow  `json:"rows"`
	Idle  []*idleEntry `json:"idle,omitempty"`
	Among []sample     `json:"among_idle,omitempty"`
}

type idleEntry struct {
	Contestant string `json:"contestant"`
	*idleReport
}

// Run is called by kong.
func (c *benchCommand) Run(e *env) error {
	only, err := regexp.Compile(c.Only)
	switch {
	case err != nil:
		return usagef("--only: %v", err)
	case c.Rounds < 1 || c.For < 100*time.Millisecond || c.For > time.Minute || c.Conns < 100 || c.Beat < time.Second || c.Beat > maxRun:
		return usagef("--rounds must be 1 or more, --for from 100ms to 1m, --conns 100 or more, --beat 1s or more")
	}
	if err := enoughFiles(c.Conns + 2000); err != nil {
		return err
	}
	me, err := os.Executable()
	if err != nil {
		return err
	}
	if c.Relay == "" {
		c.Relay = filepath.Join(filepath.Dir(me), "pyrycode-relay")
	}
	if _, err := os.Stat(c.Relay); err != nil {
		return usagef("no relay at %s: build it with make build, or give --relay", c.Relay)
	}
	runtime.GOMAXPROCS(1) // one processor for each: the relay, and the generator

	b := &contest{env: e, benchCommand: c, me: me, report: &benchReport{Date: time.Now().Format(time.DateOnly)}}
	defer b.end()
	if err := b.start(); err != nil {
		return err
	}
	for _, w := range works {
		if only.MatchString(w.Name) {
			if err := b.work(w); err != nil {
				return fmt.Errorf("%s: %w", w.Name, err)
			}
		}
	}
	if only.MatchString("idle") {
		if err := b.idle(); err != nil {
			return fmt.Errorf("idle: %w", err)
		}
	}
	if only.MatchString("growth") {
		if err := b.growth(); err != nil {
			return fmt.Errorf("growth: %w", err)
		}
	}
	return e.print(c.JSON, b.report)
}

// contest is one run of the bench command.
type contest struct {
	*env
	*benchCommand
	me       string
	children []*child // relay, baseline, splice, perhaps before; then those of growth
	report   *benchReport
}

// serve is how a relay is started: on free ports, with room for all.
func (b *contest) serve() []string {
	return []string{"serve", "--listen=127.0.0.1:0", "--metrics-listen=127.0.0.1:0", "--drain=0s",
		fmt.Sprintf("--max-conns=%d", b.Conns+1000)}
}

func (b *contest) start() error {
	ln, err := echoServer()
	if err != nil {
		return err
	}
	type program struct {
		name string
		argv []string
	}
	programs := []program{
		{"relay", append([]string{b.Relay}, b.serve()...)},
		{"baseline", []string{b.me, "baseline"}},
		{"splice", []string{b.me, "splice", "--to=" + ln.Addr().String()}},
	}
	if b.Before != "" {
		programs = append(programs, program{"before", append([]string{b.Before}, b.serve()...)})
	}
	for _, p := range programs {
		c, err := start(b.ctx, p.name, p.argv[0], p.argv[1:]...)
		if err != nil {
			return err
		}
		b.children = append(b.children, c)
	}
	return nil
}

func (b *contest) end() {
	for _, c := range b.children {
		c.end()
	}
}

// to is a contestant as a target.
func (b *contest) to(c *child, buffer int) *target {
	return &target{addr: c.addr, raw: c.name == "splice", buffer: buffer, timeout: 10 * time.Second, dialled: new(atomic.Int64)}
}

// work runs one row: A B C A B C …, since a shared machine drifts.
func (b *contest) work(w work) error {
	var rows []*benchRow
	var crowds []*crowd
	var pids []int
	for _, c := range b.children {
		if c.name == "splice" && w.shape.fanout {
			continue // it joins one to one
		}
		cr, err := gather(b.to(c, busyBuffer), w.shape, b.tell.connecting)
		if err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		defer cr.leave()
		crowds, pids = append(crowds, cr), append(pids, c.pid())
		rows = append(rows, &benchRow{Work: w.Name, Contestant: c.name})
	}
	for round := range b.Rounds {
		for i, cr := range crowds {
			what := fmt.Sprintf("%s, round %d of %d, %s", w.Name, round+1, b.Rounds, rows[i].Contestant)
			s, err := cr.run(b.ctx, b.For, pids[i], b.tell.running(what))
			if err != nil {
				return fmt.Errorf("%s: %w", rows[i].Contestant, err)
			}
			rows[i].Rounds = append(rows[i].Rounds, s)
		}
	}
	for _, r := range rows {
		r.Median = medianSample(r.Rounds)
	}
	b.report.Rows = append(b.report.Rows, rows...)
	return nil
}

// medianSample is the median of each figure by itself.
func medianSample(all []sample) sample {
	med := func(f func(sample) float64) float64 {
		v := make([]float64, len(all))
		for i, s := range all {
			v[i] = f(s)
		}
		return median(v)
	}
	return sample{
		Seconds:      med(func(s sample) float64 { return s.Seconds }),
		Frames:       med(func(s sample) float64 { return s.Frames }),
		PerSecond:    med(func(s sample) float64 { return s.PerSecond }),
		P50:          med(func(s sample) float64 { return s.P50 }),
		P99:          med(func(s sample) float64 { return s.P99 }),
		CPU:          med(func(s sample) float64 { return s.CPU }),
		CPUPerFrame:  med(func(s sample) float64 { return s.CPUPerFrame }),
		GeneratorCPU: med(func(s sample) float64 { return s.GeneratorCPU }),
	}
}

func median(v []float64) float64 {
	slices.Sort(v)
	if len(v) == 0 {
		return 0
	}
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

// idle opens connections that do nothing, first at the baseline, then at the relay.
func (b *contest) idle() error {
	for _, c := range []*child{b.children[1], b.children[0]} {
		metrics, watch, conns := "", time.Second, min(2000, b.Conns)
		if c.private != "" {
			metrics, watch, conns = "http://"+c.private+"/metrics", b.Beat, b.Conns
		}
		r, cr, err := idle(b.env, b.to(c, idleBuffer), conns, 16, watch, c.pid(), metrics)
		if err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		cr.leave()
		b.report.Idle = append(b.report.Idle, &idleEntry{c.name, r})
	}
	return b.settled()
}

// settled waits until the relay has let go of all that left.
func (b *contest) settled() error {
	for end := time.Now().Add(20 * time.Second); ; wait(b.ctx, 200*time.Millisecond) {
		f, _, err := scrape("http://" + b.children[0].private + "/metrics")
		if err != nil || f.FDs < 50 {
			return err
		}
		if time.Now().After(end) {
			return fmt.Errorf("the relay still has %.0f files open", f.FDs)
		}
	}
}

// growth measures the same round trips among more and more idle connections:
// a relay for each number of them, taking turns like the others.
func (b *contest) growth() error {
	busy := shape{binaries: 4, phones: 8, size: 512, flight: 4}
	levels := []int{0, 100, 1000, b.Conns}
	var active []*crowd
	var relays []*child
	for _, n := range levels {
		c, err := start(b.ctx, "relay", b.Relay, b.serve()...)
		if err != nil {
			return err
		}
		b.children = append(b.children, c) // ended with the others
		relays = append(relays, c)
		if n > 0 {
			idle, err := gather(b.to(c, idleBuffer), shape{binaries: n / 2, phones: 1, size: minFrame, flight: 1}, b.tell.connecting)
			if err != nil {
				return err
			}
			defer idle.leave()
		}
		cr, err := gather(b.to(c, busyBuffer), busy, b.tell.connecting)
		if err != nil {
			return err
		}
		defer cr.leave()
		active = append(active, cr)
	}
	rounds := make([][]sample, len(levels))
	for range b.Rounds {
		for i, n := range levels {
			s, err := active[i].run(b.ctx, b.For, relays[i].pid(), b.tell.running(fmt.Sprintf("among %d", n)))
			if err != nil {
				return err
			}
			rounds[i] = append(rounds[i], s)
		}
	}
	for i, n := range levels {
		m := medianSample(rounds[i])
		m.Idle = n
		b.report.Among = append(b.report.Among, m)
	}
	return nil
}

// find is the median of a contestant in a row, nil if it was not in it.
func (r *benchReport) find(work, contestant string) *sample {
	for _, row := range r.Rows {
		if row.Work == work && row.Contestant == contestant {
			return &row.Median
		}
	}
	return nil
}

// times is how many frames s carries for one of base, per second of the
// contestant's own processor and by the clock. The first is what is judged:
// on a machine with other work, or with the generator on the same processors,
// no contestant has its processor for itself, and the clock measures who
// else was there. With a processor of its own, fully used, both agree.
func (s *sample) times(base *sample) (processor, clock float64) {
	return base.CPUPerFrame / s.CPUPerFrame, s.PerSecond / base.PerSecond
}

func (r *benchReport) table(w io.Writer) {
	fmt.Fprintf(w, "%-25s %-9s %12s %10s %6s %6s %8s %8s   %s\n",
		"frames forwarded", "", "per CPU s", "per second", "CPU", "gen.", "p50 µs", "p99 µs", "times the baseline by CPU (by the clock)")
	for _, wk := range works {
		base, splice := r.find(wk.Name, "baseline"), r.find(wk.Name, "splice")
		for _, who := range []string{"baseline", "splice", "before", "relay"} {
			s := r.find(wk.Name, who)
			if s == nil {
				continue
			}
			times, clock := s.times(base)
			fmt.Fprintf(w, "%-25s %-9s %12.0f %10.0f %6.2f %6.2f %8.0f %8.0f   %.2f (%.2f)", wk.Name, who,
				1e6/s.CPUPerFrame, s.PerSecond, s.CPU, s.GeneratorCPU, s.P50, s.P99, times, clock)
			if who == "relay" {
				fmt.Fprintf(w, "; reach %.1f: %s", wk.reach, verdict(times >= wk.reach))
				if wk.splice {
					times, clock := s.times(splice)
					fmt.Fprintf(w, "; %.2f (%.2f) × the splice, stretch %.1f: %s", times, clock, wk.stretch, verdict(times >= wk.stretch))
				} else {
					fmt.Fprintf(w, "; stretch %.0f: %s", wk.stretch, verdict(times >= wk.stretch))
				}
				if wk.shape.flight == 1 {
					fmt.Fprintf(w, "; p99 %.2f of the baseline's, reach 0.5: %s", s.P99/base.P99, verdict(s.P99 <= base.P99/2))
				}
			}
			fmt.Fprintln(w)
		}
	}
	for _, i := range r.Idle {
		fmt.Fprintf(w, "\n%s, ", i.Contestant)
		i.table(w)
		if i.Contestant == "relay" {
			fmt.Fprintf(w, "  reach: ≤ 9 KB per connection: %s; ≤ 1 goroutine: %s; heartbeats < 1 %%: %s\n",
				verdict(i.RSS <= 9000), verdict(i.Goroutines < 1.01), verdict(i.CPU < .01))
		}
	}
	if len(r.Among) > 0 {
		fmt.Fprintf(w, "\nround trips 4×8×4 among idle connections, one phone to each binary\n")
		for _, s := range r.Among {
			fmt.Fprintf(w, "  %6d idle   %10.0f frames per second %8.2f µs CPU per frame\n", s.Idle, s.PerSecond, s.CPUPerFrame)
		}
	}
}

func verdict(ok bool) string {
	if ok {
		return "met"
	}
	return "NOT MET"
}
