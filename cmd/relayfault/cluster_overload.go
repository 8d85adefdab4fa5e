package main

import (
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/load"
)

// clusterOverload claims new server-ids faster than the relays can grant them.
type clusterOverload struct {
	clusterFlags
	IDs int           `name:"ids" default:"3000" help:"Idle server-ids that the relays hold meanwhile."`
	For time.Duration `default:"30s" help:"Duration of the overload."`
}

const (
	overloadFactor  = 3
	overloadWaiting = 6000 // claims without an answer; further ones are not sent
)

func (c *clusterOverload) run(e *load.Env) error {
	if c.IDs < c.Relays || c.For < time.Second || c.For > time.Hour {
		return load.Usagef("--ids must be at least --relays, --for from 1s to 1h")
	}
	if err := load.EnoughFiles(c.IDs + overloadWaiting + 500); err != nil {
		return err
	}
	// With a short grace, ids that were claimed once and left expire soon.
	t, err := newTrio(e.Ctx, c.clusterFlags, "--grace", "1s", "--max-conns", fmt.Sprint(c.IDs+overloadWaiting))
	if err != nil {
		return err
	}
	defer t.end()
	counts := make([]int, len(t.members))
	for i := range c.IDs {
		counts[i%len(counts)]++
	}
	held, err := connectIdle(e.Ctx, t, counts, everyHalfSecond, e.Progress.Connecting)
	if err != nil {
		return err
	}
	defer held.close()
	relays, _ := t.relays()
	e.Progress.Show("the rate of claims")
	begun := load.Now()
	const calm = 5 * time.Second
	times, err := claimFor(e.Ctx, relays, calm, "rate")
	if err != nil {
		return err
	}
	r := &overloadReport{IDs: c.IDs, Sustained: float64(times.Count()) / calm.Seconds()}
	e.Progress.Show("overload")
	c.flood(e, relays, r)
	load.Wait(e.Ctx, 6*time.Second) // a session that got no keep-alive has ended by then
	r.Lost = held.closedSince(begun, -1)
	if err := e.Print(c.JSON, r); err != nil {
		return err
	}
	if r.Lost > 0 {
		return fmt.Errorf("%d held server-ids were lost; the relays' logs are in %s", r.Lost, c.Out)
	}
	return e.Ctx.Err()
}

// flood sends claims at a fixed rate, answered or not, and counts the outcomes in r.
func (c *clusterOverload) flood(e *load.Env, relays []*load.Target, r *overloadReport) {
	var granted, refused, waiting atomic.Int64
	var mu sync.Mutex // guards times
	var times load.Latencies
	var claims sync.WaitGroup
	for _, to := range relays {
		to.Buffer, to.Timeout = load.IdleBuffer, claimIn
	}
	rate := r.Sustained * overloadFactor
	begun, sent, unsent := time.Now(), 0, 0
	for time.Since(begun) < c.For && e.Ctx.Err() == nil {
		for due := int(time.Since(begun).Seconds() * rate); sent+unsent < due; {
			if waiting.Load() >= overloadWaiting {
				unsent++
				continue
			}
			sent++
			n := sent
			waiting.Add(1)
			claims.Go(func() {
				defer waiting.Add(-1)
				at := time.Now()
				p, err := relays[n%len(relays)].Dial("/v1/server", fmt.Sprintf("flood-%d", n))
				if err != nil {
					refused.Add(1)
					return
				}
				granted.Add(1)
				mu.Lock()
				times.Add(time.Since(at))
				mu.Unlock()
				p.Bye()
			})
		}
		load.Wait(e.Ctx, time.Millisecond)
	}
	took := time.Since(begun).Seconds()
	claims.Wait()
	r.Offered, r.Sent = rate, float64(sent)/took
	r.Granted, r.Refused = float64(granted.Load())/took, float64(refused.Load())/took
	r.P50, r.P99 = times.Quantile(.5).Seconds(), times.Quantile(.99).Seconds()
}

// overloadReport is the result of clusterOverload. Rates are per second.
type overloadReport struct {
	IDs       int     `json:"ids"`
	Sustained float64 `json:"sustained_rate"` // granted to claimants that wait for each grant
	Offered   float64 `json:"offered_rate"`
	Sent      float64 `json:"sent_rate"` // the rest found overloadWaiting claims without an answer
	Granted   float64 `json:"granted_rate"`
	Refused   float64 `json:"refused_rate"`
	P50       float64 `json:"p50_seconds"` // of the claims that were granted
	P99       float64 `json:"p99_seconds"`
	Lost      int     `json:"held_lost"`
}

// Table implements load.Report.
func (r *overloadReport) Table(w io.Writer) {
	fmt.Fprintf(w, "%d claimants that wait for each grant: %.0f claims per second\n", claimants, r.Sustained)
	fmt.Fprintf(w, "offered %.0f per second: %.0f sent, %.0f granted (p50 %.2f s, p99 %.2f s), %.0f refused or unanswered\n", r.Offered, r.Sent, r.Granted, r.P50, r.P99, r.Refused)
	fmt.Fprintf(w, "%d of %d held server-ids lost; must be 0\n", r.Lost, r.IDs)
}
