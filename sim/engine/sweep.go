package engine

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// A SweepSummary is the result of many seeds. The summaries of different
// processes merge to the same sum in any order.
type SweepSummary struct {
	World      string
	Seeds      int
	Steps      int
	Races      int
	Violations int
	Covered    []int `json:"Probes"` // by coverage goal: how many seeds covered it
	Fresh      []int // the same without the guided seeds
	Hash       uint64
	Failed     []string // seeds that broke, at most a few
	Guided     int      // of the seeds: those that mutated a run of the corpus
	Kept       int      // runs that were added to the corpus

	First, Last uint64           // seed that was run
	Reached     map[uint64]Reach `json:",omitempty"` // states, once the sweep is over
}

// Merge adds o.
func (t *SweepSummary) Merge(o *SweepSummary) {
	t.Seeds += o.Seeds
	t.Steps += o.Steps
	t.Races += o.Races
	t.Violations += o.Violations
	t.Hash += o.Hash
	t.Failed = append(t.Failed, o.Failed...)
	t.Guided += o.Guided
	t.Kept += o.Kept
	if o.Last > 0 {
		if t.Last == 0 || o.First < t.First {
			t.First = o.First
		}
		t.Last = max(t.Last, o.Last)
	}
	t.mergeReached(o)
	t.Covered, t.Fresh = added(t.Covered, o.Covered), added(t.Fresh, o.Fresh)
}

// added returns the sums of two lists of counts, of which either may be empty.
func added(a, b []int) []int {
	sum := make([]int, max(len(a), len(b)))
	copy(sum, a)
	for i, n := range b {
		sum[i] += n
	}
	return sum
}

// CoveredGoals counts the coverage goals that at least one seed covered.
func (t *SweepSummary) CoveredGoals() int {
	n := 0
	for _, p := range t.Covered {
		if p > 0 {
			n++
		}
	}
	return n
}

// Broken reports whether a seed found a race or a violation.
func (t *SweepSummary) Broken() bool { return t.Races+t.Violations > 0 }

// String returns the summary as key=value pairs.
func (t *SweepSummary) String() string {
	evidence := ""
	if len(t.Reached) > 0 {
		e := t.Evidence()
		evidence = fmt.Sprintf(" states=%d late=%s unseen=%s missed=%s", e.States, percent(e.Late), percent(e.Unseen), percent(e.Missed))
	}
	return fmt.Sprintf("world=%s seeds=%d steps=%d races=%d violations=%d sometimes=%d/%d%s hash=%016x",
		t.World, t.Seeds, t.Steps, t.Races, t.Violations, t.CoveredGoals(), len(t.Covered), evidence, t.Hash)
}

// A Sweep runs many seeds in one process.
type Sweep struct {
	Runner
	From, To uint64              // seeds, both included
	Step     uint64              // distance between two seeds; for several processes
	For      time.Duration       // stop after; 0: when the seeds are done
	Commit   string              // a commit; its hash is one more seed
	Twice    int                 // per cent of seeds that are run twice
	Corpus   *Corpus             // every second seed mutates one of its runs; nil: none does
	Progress func(*SweepSummary) // called about every 300 ms
}

// Run runs the seeds and stops at the first that breaks. It returns that
// result, or nil.
func (s *Sweep) Run() (*SweepSummary, *Result, error) {
	t := &SweepSummary{World: s.World.Name(), Covered: make([]int, len(AllGoals(s.World)))}
	start, told := time.Now(), time.Now()
	s.Reach = true
	if s.Commit != "" {
		if res, err := s.one(t, Seed(s.Commit), true); res != nil || err != nil {
			return t, res, err
		}
	}
	for n := s.From; n <= s.To; n += max(s.Step, 1) {
		if t.Seeds%16 == 0 {
			now := time.Now()
			if s.For > 0 && now.Sub(start) >= s.For {
				break
			}
			if s.Progress != nil && now.Sub(told) > 300*time.Millisecond {
				told = now
				told := *t
				told.Reached = nil // too many to tell them each time
				s.Progress(&told)
			}
		}
		if s.Corpus != nil && s.Corpus.Len() > 0 && (n-s.From)/max(s.Step, 1)%2 == 1 {
			if res, err := s.guided(t, n); res != nil || err != nil {
				return t, res, err
			}
			continue
		}
		twice := Mix(n)%100 < uint64(s.Twice)
		if res, err := s.one(t, Seed(strconv.FormatUint(n, 10)), twice); res != nil || err != nil {
			return t, res, err
		}
	}
	return t, nil, nil
}

// one runs one seed, adds it to the summary and returns its result if it broke.
func (s *Sweep) one(t *SweepSummary, seed Seed, twice bool) (*Result, error) {
	res, err := s.Seed(seed)
	if err != nil {
		return nil, err
	}
	if twice {
		again, _ := s.Seed(seed)
		if again.Hash != res.Hash || again.Steps != res.Steps || again.Verdict() != res.Verdict() {
			again.Failure = &Failure{Invariant: "deterministic", Task: "idle",
				Detail: fmt.Sprintf("the same seed gave %016x (%s), then %016x (%s)", res.Hash, firstLine(res.Verdict()), again.Hash, firstLine(again.Verdict()))}
			res = again
		}
	}
	number, _ := seed.Number()
	if s.Commit != string(seed) {
		if t.Last == 0 {
			t.First = number
		}
		t.Last = number
	}
	t.count(number, res)
	t.Fresh = added(t.Fresh, counts(res.Covered))
	t.Hash += Mix(res.Hash ^ Mix(number))
	if res.Failure != nil {
		t.Failed = append(t.Failed, string(seed))
		return res, nil
	}
	return nil, s.keep(t, res, func(x *Runner) *Result {
		again, _ := x.Seed(seed) // its error is that of the first time
		return again
	})
}

// guided mutates a run of the corpus, as the number n decides, and adds its result to the
// summary. It returns the result, with its trace, if it broke.
func (s *Sweep) guided(t *SweepSummary, n uint64) (*Result, error) {
	g := s.Corpus.propose(NewRand(Mix(n ^ 0x901d)))
	res := g.run(&s.Runner)
	t.Guided++
	t.Last = n
	t.count(n, res)
	if res.Failure == nil {
		return nil, s.keep(t, res, g.run)
	}
	t.Failed = append(t.Failed, fmt.Sprintf("guided-%d", n))
	x := s.Runner
	x.Trace = true
	return g.run(&x), nil
}

// keep adds the run to the corpus, if there is one and the run has reached a new state.
func (s *Sweep) keep(t *SweepSummary, res *Result, again func(*Runner) *Result) error {
	if s.Corpus == nil {
		return nil
	}
	before := s.Corpus.Added
	err := s.Corpus.Add(&s.Runner, res, again)
	t.Kept += s.Corpus.Added - before
	return err
}

// counts returns 1 for each goal that was covered, and 0 for each other one.
func counts(covered []bool) []int {
	all := make([]int, len(covered))
	for i, hit := range covered {
		if hit {
			all[i] = 1
		}
	}
	return all
}

// count adds the result of the seed n.
func (t *SweepSummary) count(n uint64, res *Result) {
	t.Seeds++
	t.Steps += res.Steps
	t.reach(n, res.Reached)
	t.Covered = added(t.Covered, counts(res.Covered))
	switch {
	case res.Races > 0:
		t.Races++
	case res.Failure != nil:
		t.Violations++
	}
}

// Rarest lists the n coverage goals that the fewest seeds covered, and all
// goals that no seed covered.
func (t *SweepSummary) Rarest(w World, n int) string {
	var b strings.Builder
	seen := make([]bool, len(t.Covered))
	for range t.Covered {
		best := -1
		for i, c := range t.Covered {
			if !seen[i] && (best < 0 || c < t.Covered[best]) {
				best = i
			}
		}
		seen[best] = true
		if n--; n < 0 && t.Covered[best] > 0 {
			break
		}
		fmt.Fprintf(&b, "  %7d  %s\n", t.Covered[best], AllGoals(w)[best])
	}
	return b.String()
}

// Canary runs worlds with a planted failure. It returns an error if the
// harness does not see it.
func Canary() error {
	for _, w := range planted {
		if w.Name() == "planted-race" && !RaceBuild {
			continue
		}
		s := Sweep{Runner: Runner{World: w}, From: 1, To: 100}
		t, res, err := s.Run()
		if err != nil {
			return err
		}
		if res == nil {
			return fmt.Errorf("the canary was not caught: %d seeds of %s broke nothing", t.Seeds, w.Name())
		}
		run, again := s.Record(res)
		if again.Signature() != res.Signature() {
			return fmt.Errorf("the canary does not replay: %s broke %q, its record %q\n%s", w.Name(), res.Signature(), again.Signature(), run)
		}
	}
	return nil
}

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
// hits counts how often the code that was changed has run.
func Campaigns(w World, strategies []string, n int, limits []int, each time.Duration, hits func() int) ([]Campaign, error) {
	var out []Campaign
	x := Runner{World: w}
	for _, s := range strategies {
		x.Strategy = s
		for i := range n {
			c := Campaign{Strategy: s}
			limit := limits[min(len(out), len(limits)-1)]
			before, start := hits(), time.Now()
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
			c.Covered = hits() > before
			out = append(out, c)
		}
	}
	return out, nil
}

// campaignSeed is where the i-th search begins.
func campaignSeed(i int) int { return 1_000_000 * (i + 1) }
