package main

import (
	"context"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pyrycode/pyrycode-relay/internal/load"
)

type clusterBenchmark struct {
	clusterFlags
	Rounds int           `default:"5" help:"Rounds; every variant is measured once per round."`
	For    time.Duration `default:"2s" help:"Duration of each measurement."`
	Only   []string      `default:"hop,growth,claims" enum:"hop,growth,claims" help:"Parts of the benchmark: hop, growth, claims."`
}

// clusterBenchRun is one run of the cluster benchmark.
type clusterBenchRun struct {
	*load.Env
	*clusterBenchmark
	trio   *trio
	alone  *load.Child // a relay without a cluster
	report *clusterBenchReport
}

func (c *clusterBenchmark) run(e *load.Env) error {
	if c.Rounds < 1 || c.For < 100*time.Millisecond || c.For > time.Minute {
		return load.Usagef("--rounds must be 1 or more, --for from 100ms to 1m")
	}
	if err := load.EnoughFiles(4000); err != nil {
		return err
	}
	f := &clusterBenchRun{Env: e, clusterBenchmark: c, report: &clusterBenchReport{Relay: load.VersionOf(e.Ctx, c.Relay)}}
	var err error
	// With a short grace, ids that were claimed once and left expire soon.
	if f.trio, err = newTrio(e.Ctx, c.clusterFlags, "--grace", "1s", "--max-conns", "4000"); err != nil {
		return err
	}
	defer f.trio.end()
	cmd := exec.Command(c.Relay, "serve", "--listen=127.0.0.1:0", "--metrics-listen=127.0.0.1:0", "--drain=0s",
		"--grace=1s", "--max-conns=4000", "--max-conns-per-address=4000", "--rate=100000", "--burst=100000")
	if f.alone, err = load.StartCommand(e.Ctx, "alone", cmd, io.Discard, load.StartTimeout); err != nil {
		return err
	}
	defer f.alone.End()
	for _, part := range c.Only {
		if err := map[string]func() error{"hop": f.hop, "growth": f.growth, "claims": f.claims}[part](); err != nil {
			return err
		}
	}
	return e.Print(c.JSON, f.report)
}

// relays returns the relays of the trio as targets without the proxies in front of them,
// and their process ids.
func (t *trio) relays() (all []*load.Target, pids []int) {
	for _, m := range t.members {
		all, pids = append(all, targetAt(m.listen)), append(pids, m.child.Pid())
	}
	return all, pids
}

func targetAt(addr string) *load.Target {
	return &load.Target{Addr: addr, Buffer: load.BusyBuffer, Timeout: 10 * time.Second}
}

// variant is one setup of a comparison: the targets of its fleets, and the processes of which the
// processor time counts for each fleet.
type variant struct {
	Name   string        `json:"name"`
	Rounds []load.Sample `json:"rounds"`
	Median load.Sample   `json:"median"`

	at   []*load.Target
	pids [][]int
}

// comparison is the same load in several variants.
type comparison struct {
	Name     string     `json:"name"`
	Variants []*variant `json:"variants"`
}

// compare connects the fleets of each variant, and runs them once per round, one variant
// after the other.
func (f *clusterBenchRun) compare(name string, s load.Shape, all ...*variant) (*comparison, error) {
	fleets := make([][]*load.Fleet, len(all))
	for k, w := range all {
		for _, to := range w.at {
			c, err := load.Connect(to, s, f.Progress.Connecting)
			if err != nil {
				return nil, load.Hint(err)
			}
			defer c.Close()
			fleets[k] = append(fleets[k], c)
		}
	}
	for range f.Rounds {
		for k, w := range all {
			got := make([]load.Sample, len(fleets[k]))
			var running errgroup.Group
			for i, c := range fleets[k] {
				running.Go(func() (err error) {
					got[i], err = c.Run(f.Ctx, f.For, f.Progress.Running(name+": "+w.Name), w.pids[i]...)
					return err
				})
			}
			if err := running.Wait(); err != nil {
				return nil, fmt.Errorf("%s, %s: %w", name, w.Name, err)
			}
			w.Rounds = append(w.Rounds, sumSamples(got))
		}
	}
	for _, w := range all {
		w.Median = load.MedianSample(w.Rounds)
	}
	return &comparison{name, all}, nil
}

// sumSamples adds concurrent samples. Each load.Sample has the processor time of its
// own relay.
func sumSamples(all []load.Sample) load.Sample {
	s := all[0]
	for _, o := range all[1:] {
		s.Frames += o.Frames
		s.PerSecond += o.PerSecond
		s.CPU += o.CPU
		s.P50, s.P99 = max(s.P50, o.P50), max(s.P99, o.P99)
	}
	if s.PerSecond > 0 {
		s.CPUPerFrame = s.CPU / s.PerSecond * 1e6
	}
	return s
}

// hop compares phones at their binary's relay with phones at another relay, with
// one frame in flight and with many.
func (f *clusterBenchRun) hop() error {
	relays, pids := f.trio.relays()
	there := targetAt(relays[0].Addr)
	there.Phones = relays[1]
	for _, traffic := range []struct {
		name  string
		shape load.Shape
	}{
		{"one frame in flight", load.Shape{Binaries: 1, Phones: 1, Size: 512, Flight: 1}},
		{"many frames of 512 bytes", load.Shape{Binaries: 4, Phones: 8, Size: 512, Flight: 8}},
		{"many frames of 16 KiB", load.Shape{Binaries: 4, Phones: 8, Size: 16 << 10, Flight: 2}},
	} {
		c, err := f.compare(traffic.name, traffic.shape,
			&variant{Name: "local", at: relays[:1], pids: [][]int{pids}},
			&variant{Name: "one hop", at: []*load.Target{there}, pids: [][]int{pids}})
		if err != nil {
			return err
		}
		f.report.Hop = append(f.report.Hop, c)
	}
	return nil
}

// growth compares a relay without a cluster with one and with three relays of a
// cluster. Each relay has its own clients.
func (f *clusterBenchRun) growth() (err error) {
	relays, pids := f.trio.relays()
	own := slices.Collect(slices.Chunk(pids, 1))
	f.report.Growth, err = f.compare("local phones only, frames of 512 bytes", load.Shape{Binaries: 4, Phones: 8, Size: 512, Flight: 8},
		&variant{Name: "one relay, alone", at: []*load.Target{targetAt(f.alone.Addr)}, pids: [][]int{{f.alone.Pid()}}},
		&variant{Name: "one of three", at: relays[:1], pids: own[:1]},
		&variant{Name: "three of three", at: relays, pids: own})
	return err
}

// claimants is the number of concurrent claims.
const claimants = 32

// claims measures how many new server-ids are claimed per second.
func (f *clusterBenchRun) claims() error {
	relays, pids := f.trio.relays()
	at := []*claimRow{{Name: "one relay, alone", to: []*load.Target{targetAt(f.alone.Addr)}, pids: []int{f.alone.Pid()}},
		{Name: "three of a cluster", to: relays, pids: pids}}
	for round := range f.Rounds {
		for k, row := range at {
			d := min(f.For, 3*time.Second) // an id remains in the directory for a second
			f.Progress.Show("claims: %s", row.Name)
			before := processorTime(row.pids)
			times, err := claimFor(f.Ctx, row.to, d, fmt.Sprintf("claim-%d-%d", round, k))
			if err != nil {
				return fmt.Errorf("claims, %s: %w", row.Name, err)
			}
			load.Wait(f.Ctx, 2*time.Second)
			used := processorTime(row.pids) - before // with the deletion of the entries
			row.rounds = append(row.rounds, load.Sample{PerSecond: float64(times.Count()) / d.Seconds(),
				P50: float64(times.Quantile(.5)) / 1e6, P99: float64(times.Quantile(.99)) / 1e6,
				CPUPerFrame: float64(used.Microseconds()) / float64(times.Count())})
		}
	}
	for _, row := range at {
		m := load.MedianSample(row.rounds)
		row.PerSecond, row.P50, row.P99, row.CPU = m.PerSecond, m.P50, m.P99, m.CPUPerFrame
	}
	f.report.Claims = at
	return nil
}

// processorTime returns the processor time of processes, as far as it is known.
func processorTime(pids []int) (sum time.Duration) {
	for _, pid := range pids {
		used, _ := load.CPU(pid)
		sum += used
	}
	return sum
}

// claimFor claims new ids and releases them, for d. It returns the durations of the
// claims.
func claimFor(ctx context.Context, at []*load.Target, d time.Duration, name string) (all load.Latencies, err error) {
	var n atomic.Int64
	var mu sync.Mutex // guards all
	var working errgroup.Group
	ctx, stop := context.WithTimeout(ctx, d)
	defer stop()
	for w := range claimants {
		working.Go(func() error {
			to := targetAt(at[w%len(at)].Addr)
			to.Buffer = load.IdleBuffer
			var times load.Latencies
			for ctx.Err() == nil {
				begun := time.Now()
				p, err := to.Dial("/v1/server", fmt.Sprintf("%s-%d", name, n.Add(1)))
				if err != nil {
					return err
				}
				times.Add(time.Since(begun))
				p.Bye()
			}
			mu.Lock()
			defer mu.Unlock()
			all.Merge(&times)
			return nil
		})
	}
	err = working.Wait()
	return all, err
}

// claimRow is the rate of claims at one set of relays.
type claimRow struct {
	Name      string  `json:"name"`
	PerSecond float64 `json:"per_second"`
	P50       float64 `json:"p50_ms"`
	P99       float64 `json:"p99_ms"`
	CPU       float64 `json:"relay_cpu_us_per_claim"` // of all relays

	to     []*load.Target
	pids   []int
	rounds []load.Sample // times in milliseconds
}

// clusterBenchReport has the measurements of docs/cluster.md.
type clusterBenchReport struct {
	Relay  string        `json:"relay"`
	Hop    []*comparison `json:"hop"`
	Growth *comparison   `json:"growth"`
	Claims []*claimRow   `json:"claims"`
}

// Table implements load.Report.
func (r *clusterBenchReport) Table(w io.Writer) {
	fmt.Fprintf(w, "%s\n", r.Relay)
	compared := slices.Clone(r.Hop)
	if r.Growth != nil {
		compared = append(compared, r.Growth)
	}
	for _, c := range compared {
		fmt.Fprintf(w, "\n%s\n", c.Name)
		fmt.Fprintf(w, "  %-18s %12s %10s %10s %14s   %s\n", "", "frames/s", "p50 µs", "p99 µs", "CPU µs/frame", "ratio to the first: frames/s, p50, CPU")
		base := c.Variants[0]
		for _, one := range c.Variants {
			s := one.Median
			fmt.Fprintf(w, "  %-18s %12.0f %10.0f %10.0f %14.1f   %s, %s, %s\n", one.Name, s.PerSecond, s.P50, s.P99, s.CPUPerFrame,
				one.ratioTo(base, func(s load.Sample) float64 { return s.PerSecond }), one.ratioTo(base, func(s load.Sample) float64 { return s.P50 }),
				one.ratioTo(base, func(s load.Sample) float64 { return s.CPUPerFrame }))
		}
	}
	if len(r.Claims) > 0 {
		fmt.Fprintf(w, "\nnew server-ids claimed, %d concurrently\n", claimants)
	}
	for _, c := range r.Claims {
		fmt.Fprintf(w, "  %-18s %8.0f per second, p50 %.1f ms, p99 %.1f ms, CPU %.0f µs/claim\n", c.Name, c.PerSecond, c.P50, c.P99, c.CPU)
	}
}

// ratioTo returns the ratio of w to base for one field, round by round.
func (w *variant) ratioTo(base *variant, f func(load.Sample) float64) load.Ratio {
	v := make([]float64, len(w.Rounds))
	for i := range v {
		v[i] = f(w.Rounds[i]) / f(base.Rounds[i])
	}
	return load.Ratio{Median: load.Median(v), Least: slices.Min(v), Most: slices.Max(v)}
}
