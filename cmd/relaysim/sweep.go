package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/pyrycode/pyrycode-relay/sim"
)

type sweepFlags struct {
	seeds, out, commit string
	dur                time.Duration
	jobs, twice        int
	worker             string
}

func (e *env) sweep() int {
	var f sweepFlags
	e.where()
	e.flags.StringVar(&f.seeds, "seeds", "", "first-last")
	e.flags.DurationVar(&f.dur, "for", 0, "stop after this long")
	e.flags.IntVar(&f.jobs, "jobs", runtime.NumCPU(), "processes")
	e.flags.StringVar(&f.out, "out", "sim-artefacts", "where the artefact of a failure goes")
	e.flags.StringVar(&f.commit, "commit", "", "hash of a commit: one more seed")
	e.flags.IntVar(&f.twice, "twice", 5, "per cent of the seeds that are run twice, for the trace hash")
	e.flags.StringVar(&f.worker, "worker", "", "i/n: run every n-th seed, for another relaysim")
	if _, ok := e.parse(0); !ok {
		return usage
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
	if f.commit != "" {
		if _, ok := sim.Seed(f.commit).Number(); !ok {
			return e.complain("-commit %q: want 40 hex digits", f.commit)
		}
	}
	s := &sim.Sweep{Runner: x, From: from, To: to, Step: 1, For: f.dur, Commit: f.commit, Twice: f.twice}
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

// work runs this process's part and tells the parent about it in JSON.
func (e *env) work(s *sim.Sweep, f sweepFlags) int {
	var i, n uint64
	if _, err := fmt.Sscanf(f.worker, "%d/%d", &i, &n); err != nil || n == 0 || i >= n {
		return e.complain("-worker %q: want i/n", f.worker)
	}
	s.From, s.Step = s.From+i, n
	if i > 0 {
		s.Commit = ""
	}
	enc := json.NewEncoder(e.out)
	s.Tell = func(t *sim.Tally) { _ = enc.Encode(t) }
	t, res, err := s.Run()
	if err != nil {
		return e.complain("%v", err)
	}
	_ = enc.Encode(t)
	if res == nil {
		return held
	}
	rep := s.Explain(res, shrinkFor)
	if err := rep.Write(f.out); err != nil {
		fmt.Fprintln(e.err, "relaysim:", err)
	}
	fmt.Fprintln(e.err, rep.Summary())
	return broken
}

// direct starts the workers, adds up what they tell, and shows progress.
func (e *env) direct(s *sim.Sweep, f sweepFlags) int {
	start := time.Now()
	jobs := max(f.jobs, 1)
	if n := s.To - s.From + 1; n < uint64(jobs) {
		jobs = int(n)
	}
	var (
		mu    sync.Mutex
		part  = make([]*sim.Tally, jobs)
		code  = held
		procs []*exec.Cmd
		wait  sync.WaitGroup
	)
	self, err := os.Executable()
	if err != nil {
		return e.complain("%v", err)
	}
	for i := range jobs {
		cmd := exec.Command(self, append([]string{"sweep", "-worker", fmt.Sprintf("%d/%d", i, jobs)}, e.args...)...)
		cmd.Stderr = e.err
		pipe, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			return e.complain("%v", err)
		}
		procs = append(procs, cmd)
		wait.Add(1)
		go func() {
			defer wait.Done()
			for sc := bufio.NewScanner(pipe); sc.Scan(); {
				t := &sim.Tally{}
				if json.Unmarshal(sc.Bytes(), t) == nil {
					mu.Lock()
					part[i] = t
					mu.Unlock()
				}
			}
			if err := cmd.Wait(); err != nil {
				mu.Lock()
				code = broken
				mu.Unlock()
			}
		}()
	}
	sum := func() *sim.Tally {
		mu.Lock()
		defer mu.Unlock()
		t := &sim.Tally{World: s.World.Name(), Probes: make([]int, len(s.World.Probes()))}
		for _, p := range part {
			if p != nil {
				t.Merge(p)
			}
		}
		return t
	}
	finished := make(chan struct{})
	go func() { wait.Wait(); close(finished) }()
	e.watch(finished, start, sum)
	t := sum()
	for _, p := range procs {
		if p.ProcessState.ExitCode() == usage {
			return usage
		}
	}
	canary := "caught"
	if err := sim.Canary(); err != nil {
		fmt.Fprintln(e.err, "relaysim:", err)
		code, canary = broken, "missed"
	}
	if len(t.Probes) > 0 {
		fmt.Fprintf(e.out, "rarest of what was seen:\n%s", t.Rarest(s.World, 4))
	}
	took := time.Since(start).Seconds()
	fmt.Fprintf(e.out, "canary %s, race detector %t, %d processes, %.1f s, %.0f steps/s\n%s\n",
		canary, sim.RaceBuild, jobs, took, float64(t.Steps)/took, t)
	return code
}

// watch waits for the end and shows how far it is, if a person looks on.
func (e *env) watch(finished <-chan struct{}, start time.Time, sum func() *sim.Tally) {
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	tty := terminal(e.err)
	for {
		select {
		case <-finished:
			if tty {
				fmt.Fprint(e.err, "\r\x1b[K")
			}
			return
		case <-tick.C:
			if tty {
				fmt.Fprintf(e.err, "\r\x1b[K%4.0fs %s", time.Since(start).Seconds(), sum())
			}
		}
	}
}

func terminal(w any) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	st, err := f.Stat()
	return err == nil && st.Mode()&os.ModeCharDevice != 0
}
