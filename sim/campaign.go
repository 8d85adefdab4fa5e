package sim

import (
	"strconv"
	"time"
)

// A Campaign is one search for a failure, from one seed on.
type Campaign struct {
	Strategy  string
	Seeds     int     // run until the failure was found, or the search ended
	Seconds   float64 // that the search took
	Killed    bool
	Invariant string // that broke
	Covered   bool   `json:"Reached"` // the code of the mutant ran
}

// Campaigns runs n searches for each strategy. Each search has its own seeds
// and takes at most the time each. limits[i] is how many seeds the i-th search
// may take; the last limit holds for all further searches.
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

// ReplayRegression replays a regression run and returns the invariant that
// broke, or an empty string.
func ReplayRegression(r *Run) (string, error) {
	w, err := FindWorld(r.World)
	if err != nil {
		return "", err
	}
	x := Runner{World: w}
	return x.Replay(r).Signature(), nil
}
