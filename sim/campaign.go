package sim

import (
	"strconv"
	"time"
)

// A Campaign searches for a failure from one seed on.
type Campaign struct {
	Strategy  string
	Seeds     int     // run until it was found, or given up
	Seconds   float64 // spent
	Killed    bool
	Invariant string // that noticed
	Covered   bool   `json:"Reached"` // the code of the mutant ran
}

// Campaigns run n searches for each strategy, each from seeds of its own
// and for at most the given time. limits says how many seeds each may
// take, the last one holding for all that follow.
func Campaigns(w World, strategies []string, n int, limits []int, each time.Duration) ([]Campaign, error) {
	var out []Campaign
	x := Runner{World: w}
	for _, s := range strategies {
		x.Strategy = s
		for i := range n {
			c := Campaign{Strategy: s}
			limit := limits[min(len(out), len(limits)-1)]
			before, start := mutantHits(), time.Now()
			for c.Seeds < limit && (c.Seeds%16 != 0 || time.Since(start) < each) {
				res, err := x.Seed(Seed(strconv.Itoa(campaignSeed(i) + c.Seeds)))
				if err != nil {
					return nil, err
				}
				c.Seeds++
				if res.Failure != nil {
					c.Killed, c.Invariant = true, res.Failure.Invariant
					break
				}
			}
			c.Seconds = time.Since(start).Seconds()
			c.Covered = mutantHits() > before
			out = append(out, c)
		}
	}
	return out, nil
}

// campaignSeed is where the i-th search begins.
func campaignSeed(i int) int { return 1_000_000 * (i + 1) }

// ReplayRegression runs a story and returns which invariant broke, if any.
func ReplayRegression(r *Run) (string, error) {
	w, err := FindWorld(r.World)
	if err != nil {
		return "", err
	}
	x := Runner{World: w}
	return x.Replay(r).Signature(), nil
}
