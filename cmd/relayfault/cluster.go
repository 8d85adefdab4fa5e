package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/pyrycode/pyrycode-relay/internal/cli"
	"github.com/pyrycode/pyrycode-relay/internal/load"
)

// clusterCommands returns the command cluster.
func clusterCommands() *cobra.Command {
	faults := cli.Command("faults", "Fault tests: kill, freeze and partition three relays under load. Reports server-ids that two relays served concurrently, and service gaps that are too long.", new(clusterFaultTest))
	faults.Flags().Lookup("kinds").Usage += ": " + strings.Join(faultNames(), ", ") + "."
	return cli.Group("cluster", "Relays in a cluster: fault tests and benchmarks.",
		faults,
		cli.Command("bench", "Benchmark of three relays and of a single one: the cost of a hop and the rate of claims (docs/cluster.md).", new(clusterBenchmark)),
		cli.Command("recovery", "End, kill or freeze a relay with thousands of idle server-ids, and measure when each is served again.", new(clusterRecovery)),
		cli.Command("overload", "Claim new server-ids at three times the rate that three relays can serve, and report held server-ids that are lost.", new(clusterOverload)),
		cli.Command("idle", "Measure what idle server-ids cost the directory, which is in an etcd of its own.", new(clusterIdle)),
		cli.Hidden(cli.Command("hold", "Hold idle server-ids for cluster idle.", new(clusterHold))))
}

// clusterFlags are the common flags of the cluster commands.
type clusterFlags struct {
	Relay    string `default:"bin/pyrycode-relay-cluster" help:"The relay's program."`
	Relays   int    `default:"3" help:"The number of relays: 3 or 5."`
	External bool   `help:"Keep the directory in an etcd of three servers of its own, in place of the relays."`
	Disks    bool   `name:"small-disks" help:"Keep the directory of each relay on a tmpfs of 64 MiB, for the fault full-disk. Needs root."`
	Out      string `default:"out/cluster" help:"The directory for the relays' logs and for diagrams."`
	JSON     bool   `name:"json" help:"Print JSON, not a table."`
}

type clusterFaultTest struct {
	clusterFlags
	For       time.Duration `default:"30m" help:"How long faults are injected; the recovery from the last fault comes on top."`
	IDs       int           `name:"ids" default:"40" help:"Server-ids; each has two binaries that compete for it and three phones."`
	Handovers int           `help:"End the run after this number of handovers. The run fails if --for is over before."`
	Move      time.Duration `default:"5s" help:"Average interval at which the binary of each id gives it up, so that the other binary gets it."`
	Kinds     []string      `help:"Kinds of faults, in this order; by default all"`
	Seed      uint64        `help:"Seed of the random choices; 0: a random seed."`
}

// knownFaults returns a usage error if a name is not the name of a fault, or if the fault
// needs other options.
func (f clusterFlags) knownFaults(names []string) error {
	for _, k := range names {
		if !slices.Contains(faultNames(), k) {
			return load.Usagef("there is no fault %q; the faults are %s", k, strings.Join(faultNames(), ", "))
		}
		if needs := kindOf(k).needs(f); needs != "" {
			return load.Usagef("the fault %s needs %s", k, needs)
		}
	}
	return nil
}

// check returns a usage error for invalid options. It replaces options that are
// not set by their defaults.
func (c *clusterFaultTest) check() error {
	if len(c.Kinds) == 0 {
		for _, k := range faultKinds {
			if k.needs(c.clusterFlags) == "" {
				c.Kinds = append(c.Kinds, k.name)
			}
		}
	}
	if err := c.knownFaults(c.Kinds); err != nil {
		return err
	}
	switch {
	case c.Relays != 3 && c.Relays != 5:
		return load.Usagef("--relays %d must be 3 or 5", c.Relays)
	case c.For < time.Second || c.For > maxRun:
		return load.Usagef("--for %s must be from 1s to %s", c.For, maxRun)
	case c.IDs < 1 || c.Move < 500*time.Millisecond:
		return load.Usagef("--ids must be 1 or more, --move 500ms or more")
	}
	if c.Seed == 0 {
		c.Seed = rand.Uint64()
	}
	return load.EnoughFiles(c.IDs*2*12 + 200)
}

func (c *clusterFaultTest) run(e *load.Env) error {
	if err := c.check(); err != nil {
		return err
	}
	t, err := newTrio(e.Ctx, c.clusterFlags, "--drain-spread", "2s", "--max-pending-per-address", "10000") // as behind a balancer; all clients have the address of the proxies
	if err != nil {
		return err
	}
	defer t.end()
	cc := startClients(e.Ctx, t, c.IDs, c.Move, c.Seed)
	defer cc.end()
	r := &faultTestReport{Seed: c.Seed, IDs: c.IDs}
	if err := cc.servedSince(e.Ctx, 0); err != nil {
		return err
	}
	r.Begun = load.Now()
	r.add(cc.injectFaults(e, c, r.Begun))
	cc.paused.Store(true)
	if len(r.Wrong) == 0 {
		if err := cc.servedSince(e.Ctx, load.Now()); err != nil {
			r.add(nil, err)
		}
	}
	r.Ended = load.Now()
	cc.end()
	r.judge(cc)
	if r.Handovers < c.Handovers {
		r.wrong("only %d handovers in %s; want %d: give a longer --for, or more --ids", r.Handovers, c.For, c.Handovers)
	}
	return c.report(e, cc, r)
}

// report prints r, writes its files, and returns an error if a check failed.
func (c *clusterFaultTest) report(e *load.Env, cc *clusterClients, r *faultTestReport) error {
	picture := filepath.Join(c.Out, "server-ids.svg")
	if err := os.WriteFile(picture, r.svg(cc), 0o644); err != nil {
		return err
	}
	if len(r.longGaps) > 0 {
		if err := os.WriteFile(filepath.Join(c.Out, "long-gaps.txt"), r.longGaps, 0o644); err != nil {
			return err
		}
	}
	if err := e.Print(c.JSON, r); err != nil {
		return err
	}
	if n := len(r.Wrong) + r.More; n > 0 {
		return fmt.Errorf("%d checks failed; %s shows the server-ids; the relays' logs and the clients' attempts are in the same directory", n, picture)
	}
	return nil
}

// injectFaults injects one fault after another and returns them.
func (cc *clusterClients) injectFaults(e *load.Env, c *clusterFaultTest, begun int64) (faults []*fault, err error) {
	rng := rand.New(rand.NewPCG(c.Seed, 1<<32))
	end := begun + int64(c.For)
	for round := 0; load.Now() < end && (c.Handovers == 0 || cc.handovers() < c.Handovers); round++ {
		load.Wait(e.Ctx, min(between(rng, 2*time.Second, 5*time.Second), time.Duration(max(0, end-load.Now()))))
		k := kindOf(c.Kinds[round%len(c.Kinds)])
		e.Progress.Show("%.0f of %.0f s: %s; %d ids given up", float64(load.Now()-begun)/1e9, c.For.Seconds(), k.name, cc.giveUps.Load())
		f, err := cc.inflict(e.Ctx, k, rng)
		faults = append(faults, f)
		if err != nil {
			return faults, err
		}
	}
	return faults, e.Ctx.Err()
}

// fault is one injected fault and its repair.
type fault struct {
	Kind      string `json:"kind"`
	Victim    int    `json:"victim"` // a relay, from 0
	Other     int    `json:"other"`  // the second relay of a disconnected pair; otherwise -1
	Begin     int64  `json:"begin_ns"`
	Repaired  int64  `json:"repaired_ns"`
	Recovered int64  `json:"recovered_ns"` // all relays were ready and all ids were served again
}

// faultKind is a kind of fault. do causes the fault, waits, and repairs it.
type faultKind struct {
	name     string
	leader   bool // the victim is the leader of the directory
	external bool // the directory is in an etcd of its own
	five     bool // there are five relays
	disks    bool // the relays' directories are on small disks
	drains   bool // the relay releases its ids, so that they are served again without a lease timeout
	do       func(ctx context.Context, t *trio, f *fault, rng *rand.Rand) error
}

// needs returns the option that the fault needs and f does not have, or "".
func (k faultKind) needs(f clusterFlags) string {
	switch {
	case k.external && !f.External:
		return "--external"
	case k.five && f.Relays != 5:
		return "--relays 5"
	case k.disks && (!f.Disks || f.External):
		return "--small-disks, and the directory in the relays"
	}
	return ""
}

// directoryPaused stops all etcd servers for three seconds.
func directoryPaused(ctx context.Context, t *trio, _ *fault, _ *rand.Rand) error {
	if err := t.etcd.signal(syscall.SIGSTOP); err != nil {
		return err
	}
	load.Wait(ctx, 3*time.Second)
	return t.etcd.signal(syscall.SIGCONT)
}

// directoryRestarted restarts the etcd servers one after the other.
func directoryRestarted(ctx context.Context, t *trio, _ *fault, _ *rand.Rand) error {
	for i := range t.etcd.cmds {
		if err := t.etcd.restart(i); err != nil {
			return err
		}
		load.Wait(ctx, 4*time.Second)
	}
	return nil
}

// between returns a random duration that is at least least and less than most.
func between(rng *rand.Rand, least, most time.Duration) time.Duration {
	return least + time.Duration(rng.Int64N(int64(most-least)))
}

// killed kills a relay and after a delay calls again for it: start for the same relay
// without state, replace for one with another name, other addresses and no data.
func killed(again func(*trio, context.Context, int) error) func(context.Context, *trio, *fault, *rand.Rand) error {
	return func(ctx context.Context, t *trio, f *fault, rng *rand.Rand) error {
		if err := t.signal(f.Victim, syscall.SIGKILL); err != nil {
			return err
		}
		t.waitExit(f.Victim)
		load.Wait(ctx, between(rng, 0, 3*time.Second))
		return again(t, ctx, f.Victim)
	}
}

// twoKilled kills two relays, and after a delay starts them again.
func twoKilled(ctx context.Context, t *trio, f *fault, rng *rand.Rand) error {
	f.Other = (f.Victim + 1) % len(t.members)
	both := []int{f.Victim, f.Other}
	for _, i := range both {
		if err := t.signal(i, syscall.SIGKILL); err != nil {
			return err
		}
	}
	load.Wait(ctx, between(rng, 2*time.Second, 10*time.Second))
	var starting errgroup.Group
	for _, i := range both {
		t.waitExit(i)
		starting.Go(func() error { return t.start(ctx, i) })
	}
	return starting.Wait()
}

// diskFull fills the disk of a relay's directory. The relay must end within a minute. Then
// diskFull makes room, and starts it again.
func diskFull(ctx context.Context, t *trio, f *fault, _ *rand.Rand) error {
	m := t.members[f.Victim]
	filler := filepath.Join(m.data, "filler")
	file, err := os.Create(filler)
	if err != nil {
		return err
	}
	_, err = io.Copy(file, zeros{})
	file.Close()
	if !errors.Is(err, syscall.ENOSPC) {
		return fmt.Errorf("fill the disk: %v; want that no space is left", err)
	}
	m.mu.Lock()
	c := m.child
	m.mu.Unlock()
	select {
	case <-c.Exited():
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(time.Minute):
		return errors.New("the relay goes on, although the disk of its directory is full")
	}
	if err := os.Remove(filler); err != nil {
		return err
	}
	return t.start(ctx, f.Victim)
}

// zeros is an endless file of zeros.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// frozen stops a relay's process and continues it after a delay.
func frozen(least, most time.Duration) func(context.Context, *trio, *fault, *rand.Rand) error {
	return func(ctx context.Context, t *trio, f *fault, rng *rand.Rand) error {
		if err := t.signal(f.Victim, syscall.SIGSTOP); err != nil {
			return err
		}
		load.Wait(ctx, between(rng, least, most))
		return t.signal(f.Victim, syscall.SIGCONT)
	}
}

// cut puts links into state l for a while.
func cut(least, most time.Duration, set func(t *trio, f *fault, l load.Link), l load.Link) func(context.Context, *trio, *fault, *rand.Rand) error {
	return func(ctx context.Context, t *trio, f *fault, rng *rand.Rand) error {
		set(t, f, l)
		load.Wait(ctx, between(rng, least, most))
		set(t, f, load.LinkUp)
		return nil
	}
}

func isolated(t *trio, f *fault, l load.Link) { t.isolate(f.Victim, l) }

func parted(t *trio, f *fault, l load.Link) {
	f.Other = (f.Victim + 1) % len(t.members)
	t.disconnectPair(f.Victim, f.Other, l)
}

func clients(t *trio, f *fault, l load.Link) { t.members[f.Victim].front.Set(l) }

// drained ends a relay with SIGTERM and restarts it.
func drained(ctx context.Context, t *trio, f *fault, _ *rand.Rand) error {
	if err := t.signal(f.Victim, syscall.SIGTERM); err != nil {
		return err
	}
	t.waitExit(f.Victim)
	return t.start(ctx, f.Victim)
}

var faultKinds = []faultKind{
	{name: "drain", drains: true, do: drained},
	{name: "kill", do: killed((*trio).start)},
	{name: "kill-leader", leader: true, do: killed((*trio).start)},
	{name: "replace", do: killed((*trio).replace)},
	{name: "blink", do: frozen(time.Second, 5*time.Second)},
	{name: "freeze", do: frozen(10*time.Second, 15*time.Second)},
	{name: "freeze-leader", leader: true, do: frozen(10*time.Second, 15*time.Second)},
	{name: "isolate", do: cut(10*time.Second, 15*time.Second, isolated, load.LinkStalled)},
	{name: "isolate-leader", leader: true, do: cut(10*time.Second, 15*time.Second, isolated, load.LinkStalled)},
	{name: "cut-off", do: cut(3*time.Second, 15*time.Second, isolated, load.LinkCut)},
	{name: "part", do: cut(5*time.Second, 15*time.Second, parted, load.LinkStalled)},
	{name: "slow-links", do: cut(5*time.Second, 15*time.Second, isolated, load.LinkSlow)},
	{name: "slow-leader", leader: true, do: cut(5*time.Second, 15*time.Second, isolated, load.LinkSlow)},
	{name: "kill-two", five: true, do: twoKilled},
	{name: "full-disk", disks: true, do: diskFull},
	{name: "pause-etcd", external: true, do: directoryPaused},
	{name: "restart-etcd", external: true, do: directoryRestarted},
	{name: "no-clients", do: cut(5*time.Second, 15*time.Second, clients, load.LinkStalled)},
}

func faultNames() (all []string) {
	for _, k := range faultKinds {
		all = append(all, k.name)
	}
	return all
}

func kindOf(name string) faultKind {
	return faultKinds[slices.IndexFunc(faultKinds, func(k faultKind) bool { return k.name == name })]
}

// inflict injects one fault and waits until all relays are ready and all phones
// get answers.
func (cc *clusterClients) inflict(ctx context.Context, k faultKind, rng *rand.Rand) (*fault, error) {
	f := &fault{Kind: k.name, Victim: rng.IntN(len(cc.trio.members)), Other: -1}
	if leader := cc.trio.leader(); k.leader && leader >= 0 {
		f.Victim = leader
	}
	f.Begin = load.Now()
	if err := k.do(ctx, cc.trio, f, rng); err != nil {
		return f, fmt.Errorf("%s of %s: %w", k.name, cc.trio.members[f.Victim].name, err)
	}
	f.Repaired = load.Now()
	if err := cc.trio.waitReady(ctx); err != nil {
		return f, fmt.Errorf("after %s: %w", k.name, err)
	}
	if err := cc.servedSince(ctx, load.Now()); err != nil {
		return f, fmt.Errorf("after %s: %w", k.name, err)
	}
	f.Recovered = load.Now()
	return f, nil
}
