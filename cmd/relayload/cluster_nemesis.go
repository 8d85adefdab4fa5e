package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"syscall"
	"time"
)

// A fault is one thing that goes wrong with a trio, and is mended.
type fault struct {
	Kind   string `json:"kind"`
	Victim int    `json:"victim"` // a relay, from 0
	Other  int    `json:"other"`  // the second one of a pair that is parted; else -1
	Begin  int64  `json:"begin_ns"`
	Mended int64  `json:"mended_ns"`
	Whole  int64  `json:"whole_ns"` // all relays were ready and all ids served again
}

// faultKind is how one is made. do breaks things, waits, and mends them.
type faultKind struct {
	name   string
	leader bool // the victim is whoever leads the directory
	drains bool // ids are given away, so they are served again at once
	do     func(ctx context.Context, t *trio, f *fault, rng *rand.Rand) error
}

func between(rng *rand.Rand, least, most time.Duration) time.Duration {
	return least + time.Duration(rng.Int64N(int64(most-least)))
}

// killed kills a relay and starts it again after a while, under its old name
// and with an empty memory.
func killed(ctx context.Context, t *trio, f *fault, rng *rand.Rand) error {
	if err := t.signal(f.Victim, syscall.SIGKILL); err != nil {
		return err
	}
	t.waitExit(f.Victim)
	wait(ctx, between(rng, 0, 10*time.Second))
	return t.start(ctx, f.Victim)
}

// frozen stops a relay's process and lets it go on.
func frozen(least, most time.Duration) func(context.Context, *trio, *fault, *rand.Rand) error {
	return func(ctx context.Context, t *trio, f *fault, rng *rand.Rand) error {
		if err := t.signal(f.Victim, syscall.SIGSTOP); err != nil {
			return err
		}
		wait(ctx, between(rng, least, most))
		return t.signal(f.Victim, syscall.SIGCONT)
	}
}

// cut does something to links for a while.
func cut(least, most time.Duration, set func(t *trio, f *fault, l link), l link) func(context.Context, *trio, *fault, *rand.Rand) error {
	return func(ctx context.Context, t *trio, f *fault, rng *rand.Rand) error {
		set(t, f, l)
		wait(ctx, between(rng, least, most))
		set(t, f, linkUp)
		return nil
	}
}

func isolated(t *trio, f *fault, l link) { t.isolate(f.Victim, l) }

func parted(t *trio, f *fault, l link) {
	f.Other = (f.Victim + 1) % nodes
	t.disconnectPair(f.Victim, f.Other, l)
}

func clients(t *trio, f *fault, l link) { t.members[f.Victim].front.set(l) }

// drained ends a relay as an operator does, and starts it again.
func drained(ctx context.Context, t *trio, f *fault, _ *rand.Rand) error {
	if err := t.signal(f.Victim, syscall.SIGTERM); err != nil {
		return err
	}
	t.waitExit(f.Victim)
	return t.start(ctx, f.Victim)
}

var faultKinds = []faultKind{
	{name: "drain", drains: true, do: drained},
	{name: "kill", do: killed},
	{name: "kill-leader", leader: true, do: killed},
	{name: "blink", do: frozen(2*time.Second, 12*time.Second)},
	{name: "freeze", do: frozen(35*time.Second, 45*time.Second)},
	{name: "freeze-leader", leader: true, do: frozen(35*time.Second, 45*time.Second)},
	{name: "isolate", do: cut(35*time.Second, 45*time.Second, isolated, linkStalled)},
	{name: "isolate-leader", leader: true, do: cut(35*time.Second, 45*time.Second, isolated, linkStalled)},
	{name: "cut-off", do: cut(5*time.Second, 40*time.Second, isolated, linkCut)},
	{name: "part", do: cut(10*time.Second, 40*time.Second, parted, linkStalled)},
	{name: "no-clients", do: cut(5*time.Second, 15*time.Second, clients, linkStalled)},
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

// inflict does one fault to fl, and waits until all is well again.
func (cc *clusterClients) inflict(ctx context.Context, k faultKind, rng *rand.Rand) (*fault, error) {
	f := &fault{Kind: k.name, Victim: rng.IntN(nodes), Other: -1}
	if leader := cc.trio.leader(); k.leader && leader >= 0 {
		f.Victim = leader
	}
	f.Begin = clockNow()
	if err := k.do(ctx, cc.trio, f, rng); err != nil {
		return f, fmt.Errorf("%s of %s: %w", k.name, cc.trio.members[f.Victim].name, err)
	}
	f.Mended = clockNow()
	if err := cc.trio.waitReady(ctx); err != nil {
		return f, fmt.Errorf("after %s: %w", k.name, err)
	}
	if err := cc.servedSince(ctx, clockNow()); err != nil {
		return f, fmt.Errorf("after %s: %w", k.name, err)
	}
	f.Whole = clockNow()
	return f, nil
}
