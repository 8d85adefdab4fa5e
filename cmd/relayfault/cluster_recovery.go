package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/load"
)

// clusterRecovery measures the recovery of many server-ids from one fault at a time.
type clusterRecovery struct {
	clusterFlags
	IDs     int           `name:"ids" default:"3000" help:"Idle server-ids of the relay that fails; each other relay has a tenth of that."`
	Cases   []string      `default:"drain,kill,kill-leader,freeze-leader,pause" help:"Faults, each at relays of its own: drain, kill, kill-leader, freeze-leader, pause."`
	Backoff bool          `help:"Redial as the deployed daemon does, after 1, 2, 4, 8, 16 and 30 s. Otherwise clients redial every 0.5 s."`
	Spread  time.Duration `default:"5s" help:"The relays' --drain-spread."`
}

// recoveryCase is one fault of a relay, and the limits of docs/cluster.md. A limit of 0 is not
// checked.
type recoveryCase struct {
	name          string
	leader        bool // the victim leads the directory; otherwise it does not
	do            func(ctx context.Context, t *trio, victim int) error
	median, worst time.Duration // until an id of the victim is served again
	backoffWorst  time.Duration // worst, with the pauses of the deployed daemon
	fromClose     bool          // the limits count from the close of the id's binary, not from the fault
	blocked       time.Duration // longest time without a grant of a new id
	keeps         bool          // the victim keeps its connections, too
}

var recoveryCases = []recoveryCase{
	{name: "drain", do: signalled(syscall.SIGTERM), worst: time.Second, fromClose: true},
	{name: "kill", do: signalled(syscall.SIGKILL), median: 7 * time.Second, worst: 9 * time.Second, backoffWorst: 10 * time.Second, blocked: 2500 * time.Millisecond},
	{name: "kill-leader", leader: true, do: signalled(syscall.SIGKILL), median: 7 * time.Second, worst: 9 * time.Second, backoffWorst: 10 * time.Second, blocked: 2500 * time.Millisecond},
	{name: "freeze-leader", leader: true, do: paused(10*time.Second, false), blocked: 2500 * time.Millisecond},
	{name: "pause", do: paused(3*time.Second, true), keeps: true},
}

// signalled returns a fault that sends s to the victim.
func signalled(s syscall.Signal) func(context.Context, *trio, int) error {
	return func(_ context.Context, t *trio, victim int) error { return t.signal(victim, s) }
}

// paused returns a fault that stops the victim for d. If all is set, it stops the directory
// instead: all etcd servers, or all relays but one.
func paused(d time.Duration, all bool) func(context.Context, *trio, int) error {
	return func(ctx context.Context, t *trio, victim int) error {
		if all && t.etcd != nil {
			return directoryPaused(ctx, t, nil, nil)
		}
		var errs []error
		for _, s := range []syscall.Signal{syscall.SIGSTOP, syscall.SIGCONT} {
			for i := range t.members {
				if (i == victim) != all {
					errs = append(errs, t.signal(i, s))
				}
			}
			if s == syscall.SIGSTOP {
				load.Wait(ctx, d)
			}
		}
		return errors.Join(errs...)
	}
}

func (c *clusterRecovery) run(e *load.Env) error {
	var cases []recoveryCase
	for _, name := range c.Cases {
		i := slices.IndexFunc(recoveryCases, func(k recoveryCase) bool { return k.name == name })
		if i < 0 {
			return load.Usagef("there is no case %q", name)
		}
		cases = append(cases, recoveryCases[i])
	}
	if c.IDs < 10 || c.Relays < 3 {
		return load.Usagef("--ids must be 10 or more, --relays 3 or 5")
	}
	if err := load.EnoughFiles(c.IDs*2 + 500); err != nil {
		return err
	}
	r := &recoveryReport{IDs: c.IDs, Backoff: c.Backoff}
	for _, k := range cases {
		e.Progress.Show("%s", k.name)
		row, err := c.measure(e, k)
		if err != nil {
			return fmt.Errorf("%s: %w", k.name, err)
		}
		r.Rows = append(r.Rows, row)
		r.judge(k, row)
	}
	if err := e.Print(c.JSON, r); err != nil {
		return err
	}
	if n := len(r.Wrong); n > 0 {
		return fmt.Errorf("%d limits are exceeded; the relays' logs are in %s", n, c.Out)
	}
	return nil
}

// measure starts relays, injects the fault k into one of them, and waits until all ids are
// served again.
func (c *clusterRecovery) measure(e *load.Env, k recoveryCase) (*recoveryRow, error) {
	t, err := newTrio(e.Ctx, c.clusterFlags, "--drain-spread", c.Spread.String(), "--drain", (c.Spread + 10*time.Second).String(),
		"--max-conns", fmt.Sprint(c.IDs*2+1000))
	if err != nil {
		return nil, err
	}
	defer t.end()
	victim := max(0, t.leader())
	if !k.leader {
		victim = (victim + 1) % len(t.members)
	}
	counts := make([]int, len(t.members))
	for i := range counts {
		counts[i] = c.IDs / 10
	}
	counts[victim] = c.IDs
	how := everyHalfSecond
	if c.Backoff {
		how = asDaemon
	}
	f, err := connectIdle(e.Ctx, t, counts, how, e.Progress.Connecting)
	if err != nil {
		return nil, err
	}
	defer f.close()
	load.Wait(e.Ctx, 3*time.Second)
	ctx, stop := context.WithCancel(e.Ctx)
	longest := make(chan time.Duration, 1)
	go func() { longest <- t.claimable(ctx, victim) }()
	begun := load.Now()
	err = k.do(e.Ctx, t, victim)
	if err == nil {
		load.Wait(e.Ctx, c.Spread+time.Second) // the last binary of a drain is told meanwhile
		err = f.connected(e.Ctx, 90*time.Second)
	}
	load.Wait(e.Ctx, time.Second)
	stop()
	blocked := <-longest
	if err != nil {
		return nil, err
	}
	return newRecoveryRow(k.name, f, victim, begun, blocked), e.Ctx.Err()
}

// claimable claims new ids at ready relays other than victim until ctx ends. It returns the
// longest time between two grants.
func (t *trio) claimable(ctx context.Context, victim int) (longest time.Duration) {
	rng := rand.New(rand.NewPCG(rand.Uint64(), 0))
	relays, _ := t.relays()
	last := time.Now()
	for n := 0; ctx.Err() == nil; n++ {
		to := relays[t.choose(rng, victim)]
		to.Buffer, to.Timeout = load.IdleBuffer, 5*time.Second
		p, err := to.Dial("/v1/server", fmt.Sprintf("new-%d", n))
		if ctx.Err() == nil {
			longest = max(longest, time.Since(last))
		}
		if err == nil {
			last = time.Now()
			p.Bye()
		}
		load.Wait(ctx, 50*time.Millisecond)
	}
	return longest
}

// recoveryRow is the result of one case. Times are in seconds.
type recoveryRow struct {
	Case    string     `json:"case"`
	IDs     int        `json:"ids"`         // the connections of the victim that were closed
	Fault   [3]float64 `json:"since_fault"` // until they were served again: first, median, worst
	Close   [3]float64 `json:"since_close"` // the same, since each one's close
	Others  int        `json:"others_closed"`
	Refused int        `json:"closed_4409"`
	Blocked float64    `json:"claims_blocked"`
}

// newRecoveryRow returns the result of a fault of victim at the time begun.
func newRecoveryRow(name string, f *idleBinaries, victim int, begun int64, blocked time.Duration) *recoveryRow {
	r := &recoveryRow{Case: name, Others: f.closedSince(begun, victim), Blocked: blocked.Seconds()}
	var fault, closed []float64
	for _, b := range f.all {
		b.mu.Lock()
		first := int64(0)
		for _, c := range b.closes {
			if c.at >= begun && c.node == victim && first == 0 {
				first = c.at
			}
			if c.code == 4409 {
				r.Refused++
			}
		}
		if first != 0 {
			fault = append(fault, float64(b.since-begun)/1e9)
			closed = append(closed, float64(b.since-first)/1e9)
		}
		b.mu.Unlock()
	}
	r.IDs = len(fault)
	for _, one := range []struct {
		to  *[3]float64
		all []float64
	}{{&r.Fault, fault}, {&r.Close, closed}} {
		if len(one.all) > 0 {
			*one.to = [3]float64{slices.Min(one.all), load.Median(one.all), slices.Max(one.all)}
		}
	}
	return r
}

// recoveryReport is the result of clusterRecovery.
type recoveryReport struct {
	IDs     int            `json:"ids"`
	Backoff bool           `json:"daemon_backoff"`
	Rows    []*recoveryRow `json:"cases"`
	Wrong   []string       `json:"wrong"`
}

// judge adds the limits of k that row exceeds.
func (r *recoveryReport) judge(k recoveryCase, row *recoveryRow) {
	got, since := row.Fault, "the fault"
	if k.fromClose {
		got, since = row.Close, "the close"
	}
	median, worst := k.median, k.worst
	if r.Backoff {
		median, worst = 0, k.backoffWorst
	}
	check := func(what string, s float64, limit time.Duration) {
		if limit > 0 && s > limit.Seconds() {
			r.Wrong = append(r.Wrong, fmt.Sprintf("%s: %s is %.2f s, must be at most %s", k.name, what, s, limit))
		}
	}
	check("the median time from "+since, got[1], median)
	check("the longest time from "+since, got[2], worst)
	check("the longest time without a grant", row.Blocked, k.blocked)
	if row.Others > 0 || k.keeps && row.IDs > 0 {
		r.Wrong = append(r.Wrong, fmt.Sprintf("%s: %d connections of other relays and %d of this one were closed", k.name, row.Others, row.IDs))
	}
	if row.Refused > 0 {
		r.Wrong = append(r.Wrong, fmt.Sprintf("%s: %d claims were closed with 4409", k.name, row.Refused))
	}
}

// Table implements load.Report.
func (r *recoveryReport) Table(w io.Writer) {
	client := "every 0.5 s"
	if r.Backoff {
		client = "as the deployed daemon does"
	}
	fmt.Fprintf(w, "%d server-ids at the relay that fails; their binaries redial %s; times in seconds\n", r.IDs, client)
	fmt.Fprintf(w, "  %-14s %8s   %-38s %-38s %14s %s\n", "fault", "closed", "served again after fault", "after the close", "others closed", "no new id granted for")
	for _, row := range r.Rows {
		fmt.Fprintf(w, "  %-14s %8d   %-38s %-38s %14d %.2f\n", row.Case, row.IDs, spread(row.Fault), spread(row.Close), row.Others, row.Blocked)
	}
	fmt.Fprint(w, wrongLines(r.Wrong))
}

func spread(s [3]float64) string {
	return fmt.Sprintf("first %.2f, median %.2f, worst %.2f", s[0], s[1], s[2])
}

// wrongLines returns a line for each failure, or one that says that all limits hold.
func wrongLines(wrong []string) string {
	if len(wrong) == 0 {
		return "all limits hold\n"
	}
	return "WRONG: " + strings.Join(wrong, "\nWRONG: ") + "\n"
}
