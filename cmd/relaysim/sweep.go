package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/pyrycode/pyrycode-relay/sim/engine"
)

type sweepFlags struct {
	seeds, out, commit string
	corpus             string
	dur                time.Duration
	jobs, twice        int
	worker             string
}

func (e *env) sweep() int {
	var f sweepFlags
	e.worldFlags()
	e.flags.StringVar(&f.seeds, "seeds", "", "`FIRST-LAST`, one number, or FIRST- without an end")
	e.flags.DurationVar(&f.dur, "for", 0, "stop after this `TIME`")
	e.flags.IntVar(&f.jobs, "jobs", runtime.NumCPU(), "`N` processes")
	e.flags.StringVar(&f.out, "out", "sim-artefacts", "directory, `DIR`, for the artefact of a failure")
	e.flags.StringVar(&f.commit, "commit", "", "`HASH` of a commit: one more seed")
	e.flags.IntVar(&f.twice, "twice", 5, "run `N` per cent of the seeds twice, for the trace hash")
	e.flags.StringVar(&f.corpus, "corpus", "", "directory, `DIR`, for runs that reach new states; every second seed mutates one of them")
	e.flags.StringVar(&f.worker, "worker", "", "`I/N`: run every N-th seed from the I-th on, as a part of another relaysim")
	if _, ok := e.parse(0); !ok {
		return e.code
	}
	x, err := e.runner()
	if err != nil {
		return e.complain("%v", err)
	}
	from, to, err := seedRange(f.seeds)
	if err != nil {
		return e.complain("%v", err)
	}
	if f.seeds == "" && f.dur == 0 {
		return e.complain("want -seeds or -for")
	}
	if !e.check(rule{f.dur >= 0, "for", f.dur, "0s or more"}, rule{f.jobs > 0, "jobs", f.jobs, "1 or more"}, rule{f.twice >= 0 && f.twice <= 100, "twice", f.twice, "from 0 to 100"}) {
		return usage
	}
	if f.commit != "" {
		if _, ok := engine.Seed(f.commit).Number(); !ok {
			return e.complain("-commit %q: want 40 hex digits", f.commit)
		}
	}
	s := &engine.Sweep{Runner: x, From: from, To: to, Step: 1, For: f.dur, Commit: f.commit, Twice: f.twice}
	if f.worker != "" {
		return e.work(s, f)
	}
	return e.direct(s, f)
}

func seedRange(s string) (from, to uint64, err error) {
	if s == "" {
		return 1, math.MaxInt64, nil
	}
	a, b, both := strings.Cut(s, "-")
	from, err = strconv.ParseUint(a, 10, 63)
	to = from
	if err == nil && both {
		if b == "" {
			return from, math.MaxInt64, nil
		}
		to, err = strconv.ParseUint(b, 10, 63)
	}
	if err != nil || to < from {
		return 0, 0, fmt.Errorf("-seeds %q: want first-last, as in 1-10000", s)
	}
	return from, to, nil
}

// work runs this process's part and reports to the parent in JSON.
func (e *env) work(s *engine.Sweep, f sweepFlags) int {
	var i, n uint64
	if _, err := fmt.Sscanf(f.worker, "%d/%d", &i, &n); err != nil || n == 0 || i >= n {
		return e.complain("-worker %q: want i/n", f.worker)
	}
	s.From, s.Step = s.From+i, n
	if i > 0 {
		s.Commit = ""
	}
	if f.corpus != "" {
		c, skipped, err := engine.OpenCorpus(f.corpus, &s.Runner)
		if err != nil {
			return e.complain("-corpus: %v", err)
		}
		if skipped > 0 && i == 0 {
			fmt.Fprintf(e.err, "relaysim: %d files in %s are no runs of this version; they were skipped\n", skipped, f.corpus)
		}
		s.Corpus = c
	}
	enc := json.NewEncoder(e.out)
	s.Progress = func(t *engine.SweepSummary) { _ = enc.Encode(t) }
	t, res, err := s.Run()
	if err != nil {
		return e.complain("%v", err)
	}
	_ = enc.Encode(t)
	if res == nil {
		return held
	}
	if file, ok := engine.KnownFailure(f.out, s.World.Name(), res.Signature()); ok {
		fmt.Fprintf(e.err, "broken: %s\nIt breaks in the same way as %s, which stays; relaysim run -world %s -seed %s explains this seed, unless it is guided.\n", firstLine(res.Verdict()), file, s.World.Name(), t.Failed[len(t.Failed)-1])
		return broken
	}
	rep := explain(&s.Runner, res)
	if err := rep.Write(f.out); err != nil {
		fmt.Fprintln(e.err, "relaysim:", err)
	}
	fmt.Fprintln(e.err, rep.Summary())
	return broken
}

// maxReport bounds the report of a worker: a state of it has about 60 bytes.
const maxReport = 256 << 20

// direct starts the workers, merges their summaries, and shows the progress.
func (e *env) direct(s *engine.Sweep, f sweepFlags) int {
	start := time.Now()
	jobs := max(f.jobs, 1)
	if n := s.To - s.From + 1; n < uint64(jobs) {
		jobs = int(n)
	}
	executable, err := os.Executable()
	if err != nil {
		return e.complain("%v", err)
	}
	line := &statusLine{to: e.err, on: terminal(e.err)}
	w := &workers{part: make([]*engine.SweepSummary, jobs)}
	for i := range jobs {
		cmd := exec.Command(executable, append([]string{"sweep", "-worker", fmt.Sprintf("%d/%d", i, jobs)}, e.args...)...)
		cmd.Stderr = line
		if err := w.start(i, cmd); err != nil {
			return e.complain("%v", err)
		}
	}
	finished := make(chan struct{})
	go func() { w.running.Wait(); close(finished) }()
	line.watch(finished, start, func() *engine.SweepSummary { return w.sum(s.World) })
	if slices.ContainsFunc(w.procs, func(p *exec.Cmd) bool { return p.ProcessState.ExitCode() == usage }) {
		return usage
	}
	code := held
	if w.failed {
		code = broken
	}
	canary := "caught"
	if err := engine.Canary(); err != nil {
		fmt.Fprintln(e.err, "relaysim:", err)
		code, canary = broken, "missed"
	}
	e.report(s.World, w.sum(s.World), time.Since(start).Seconds(), jobs, canary)
	return code
}

// report prints the summary of a sweep.
func (e *env) report(world engine.World, t *engine.SweepSummary, took float64, jobs int, canary string) {
	if len(t.Covered) > 0 {
		fmt.Fprintf(e.out, "rarest coverage goals, with the number of seeds that covered each:\n%s", t.Rarest(world, 4))
	}
	if !t.Broken() && t.Seeds > 0 {
		fmt.Fprintln(e.out, t.Evidence())
		if t.Guided > 0 || t.Kept > 0 {
			fmt.Fprintf(e.out, "guided: %d of the %d runs mutated a run of the corpus; %d runs reached new states and were added to it\n", t.Guided, t.Seeds, t.Kept)
		}
	}
	fmt.Fprintf(e.out, "canary %s, race detector %t, %d processes, %.1f s, %.0f steps/s\n%s\n",
		canary, engine.RaceBuild, jobs, took, float64(t.Steps)/took, t)
}

// workers are the processes of a sweep.
type workers struct {
	running sync.WaitGroup

	mu       sync.Mutex // guards all below
	part     []*engine.SweepSummary
	procs    []*exec.Cmd
	stopping bool // a worker has found a failure
	failed   bool // a worker has ended with another exit code than 0
}

// start starts worker i, and reads its reports until it ends.
func (w *workers) start(i int, cmd *exec.Cmd) error {
	pipe, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return err
	}
	w.mu.Lock()
	w.procs = append(w.procs, cmd)
	late := w.stopping
	w.mu.Unlock()
	if late {
		_ = cmd.Process.Kill()
	}
	w.running.Go(func() {
		sc := bufio.NewScanner(pipe)
		sc.Buffer(nil, maxReport)
		for sc.Scan() {
			t := &engine.SweepSummary{}
			if json.Unmarshal(sc.Bytes(), t) == nil {
				w.note(i, t)
			}
		}
		if err := cmd.Wait(); err != nil {
			w.mu.Lock()
			w.failed = true
			w.mu.Unlock()
		}
	})
	return nil
}

// note keeps the newest summary of worker i. If it has found a failure, which it explains
// on its own, note ends the other workers. Their last 300 ms are not counted.
func (w *workers) note(i int, t *engine.SweepSummary) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.part[i] = t
	if !t.Broken() {
		return
	}
	for k, p := range w.procs {
		if k != i && !w.stopping {
			_ = p.Process.Kill()
		}
	}
	w.stopping = true
}

// sum returns the sum of the summaries.
func (w *workers) sum(world engine.World) *engine.SweepSummary {
	w.mu.Lock()
	defer w.mu.Unlock()
	t := &engine.SweepSummary{World: world.Name(), Covered: make([]int, len(engine.AllGoals(world)))}
	for _, p := range w.part {
		if p != nil {
			t.Merge(p)
		}
	}
	return t
}

// statusLine is a line on a terminal that shows the progress of a sweep. Other
// output that is written to it replaces the line.
type statusLine struct {
	to io.Writer
	on bool // to is a terminal

	mu    sync.Mutex
	shown bool
}

// lineWidth is the maximum width: a line that wraps cannot be removed.
const lineWidth = 79

// watch shows the progress until finished is closed, then removes the line.
func (l *statusLine) watch(finished <-chan struct{}, start time.Time, sum func() *engine.SweepSummary) {
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-finished:
			_, _ = l.Write(nil)
			return
		case <-tick.C:
			l.show(fmt.Sprintf("%4.0fs %s", time.Since(start).Seconds(), sum()))
		}
	}
}

func (l *statusLine) show(text string) {
	if !l.on {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	fmt.Fprintf(l.to, "\r\x1b[K%.*s", lineWidth, text)
	l.shown = true
}

// Write removes the line and writes p.
func (l *statusLine) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.shown {
		fmt.Fprint(l.to, "\r\x1b[K")
		l.shown = false
	}
	return l.to.Write(p)
}

func terminal(w any) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	st, err := f.Stat()
	return err == nil && st.Mode()&os.ModeCharDevice != 0
}
