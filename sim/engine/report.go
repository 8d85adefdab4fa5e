package engine

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"time"
)

// A Report is a failure, recorded and shrunk, for people to read.
type Report struct {
	Result *Result // as found
	Run    *Plan   // shrunk
	Final  *Result // of the shrunk run
	Matter int     // index of the line that matters, or -1
	Tries  int
	Before int    // lines before shrinking
	File   string // that Write has written
	Repeat string // the command that replays the file, without its name; may be empty
}

// Commit is what the program was built from, if that is known.
func Commit() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				return s.Value
			}
		}
	}
	return "unknown"
}

// Explain records a failed run, shrinks it and finds what matters in it.
func (x *Runner) Explain(res *Result, limit time.Duration) *Report {
	rep := &Report{Result: res, Matter: noMatter}
	run, again := x.Record(res)
	rep.Before, rep.Run, rep.Final = len(run.Lines), run, again
	if sig := res.Signature(); again.Signature() == sig {
		rep.Run, rep.Final, rep.Tries = x.Shrink(run, sig, limit)
		rep.Matter = x.Matters(rep.Run)
	}
	return rep
}

// Text returns the artefact: a run that replays, with an explanation in
// comments.
func (r *Report) Text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "# %s\n", firstLine(r.Final.failure()))
	fmt.Fprintf(&b, "# signature: %s\n", r.Final.Signature())
	fmt.Fprintf(&b, "# commit %s, race detector %t\n", Commit(), RaceBuild)
	if r.Final.Race != nil {
		b.WriteString("# only a build with the race detector sees this failure\n")
	}
	fmt.Fprintf(&b, "# %d lines before shrinking, %d after %d tries\n", r.Before, len(r.Run.Lines), r.Tries)
	if m := r.Matters(); m != "" {
		fmt.Fprintf(&b, "# %s\n", m)
	}
	if r.File != "" && r.Repeat != "" {
		fmt.Fprintf(&b, "# repeat: %s %s\n", r.Repeat, r.File)
	}
	b.WriteString(r.Run.String())
	b.WriteString(r.Final.endPhase())
	b.WriteString("\n# what happened:\n")
	comment(&b, r.Final.Trace.String())
	if race := r.Final.Race; race != nil {
		fmt.Fprintf(&b, "\n# the race, reported at step %d:\n", r.Final.Failure.Step)
		comment(&b, race.Stacks)
	} else if f := r.Final.Failure; f != nil && strings.Contains(f.Detail, "\n") {
		comment(&b, f.Detail)
	}
	return b.String()
}

// FailedByRace reports whether the artefact in text is of a data race, which only a
// race build sees.
func FailedByRace(text string) bool {
	return slices.ContainsFunc(strings.Split(text, "\n"), func(l string) bool { return strings.HasPrefix(l, "# signature: race ") })
}

// hasSignature reports whether the artefact in text is of a failure with this signature.
func hasSignature(text, signature string) bool {
	return strings.Contains("\n"+text, "\n# signature: "+signature+"\n")
}

// Matters says which ordering it is that breaks the run.
func (r *Report) Matters() string {
	if r.Matter == matterUnknown {
		return "which ordering matters is not known: the run is too long to try them all"
	}
	if r.Matter < 0 {
		return "the operations break it in this order, without any switch between them"
	}
	l := r.Run.Lines[r.Matter]
	if l.Fails != "" {
		return fmt.Sprintf("what matters: fail %s; without this failure the run holds", l.Fails)
	}
	if l.Begins != "" {
		return fmt.Sprintf("what matters: %s begins this late; if it begins immediately, the run holds", l.Begins)
	}
	return fmt.Sprintf("what matters: at %s, %s goes on; without this switch the run holds", l.At, l.Run)
}

// Write puts the artefact into a directory.
func (r *Report) Write(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	seed := r.Result.Seed
	if seed == "" {
		seed = "replay"
	}
	stem := filepath.Join(dir, strings.ReplaceAll(r.Run.worldName(), "/", "-")+"-"+seed)
	r.File = stem + ".run"
	for n := 2; ; n++ { // another failure of the same seed stays
		old, err := os.ReadFile(r.File)
		if err != nil || hasSignature(string(old), r.Final.Signature()) {
			return os.WriteFile(r.File, []byte(r.Text()), 0o644)
		}
		r.File = fmt.Sprintf("%s-%d.run", stem, n)
	}
}

// Summary is what the terminal shows.
func (r *Report) Summary() string {
	var b strings.Builder
	fmt.Fprintf(&b, "broken: %s\n", r.Result.failure())
	if r.Final.Signature() != r.Result.Signature() {
		fmt.Fprintf(&b, "the recorded run does not break in the same way: %s\n", r.Final.failure())
	}
	fmt.Fprintf(&b, "seed %s, strategy %s, shrunk from %d lines to %d:\n\n", r.Result.Seed, r.Result.Strategy, r.Before, len(r.Run.Lines))
	for _, l := range strings.Split(strings.TrimSpace(r.Run.String()+r.Final.endPhase()), "\n") {
		fmt.Fprintf(&b, "    %s\n", l)
	}
	fmt.Fprintf(&b, "\n%s\n", r.Matters())
	if race := r.Final.Race; race != nil {
		fmt.Fprintf(&b, "\n%s\n", race.Stacks)
	}
	if r.File != "" && r.Repeat != "" {
		fmt.Fprintf(&b, "repeat: %s %s\n", r.Repeat, r.File)
	}
	return b.String()
}

func (r *Result) failure() string {
	if r.Failure == nil {
		return "nothing is broken"
	}
	return r.Failure.String()
}

func firstLine(s string) string { l, _, _ := strings.Cut(s, "\n"); return l }

func comment(b *strings.Builder, text string) {
	for _, l := range strings.Split(strings.TrimRight(text, "\n"), "\n") {
		fmt.Fprintf(b, "# %s\n", l)
	}
}

// inspector is a world that describes its state.
type inspector interface{ Inspect() string }

// state describes where the run stands: its tasks, its locks and its timers, and the
// world if that has an Inspect. Call it only while no task runs.
func (e *Run) state() string {
	var b strings.Builder
	fmt.Fprintf(&b, "before step %d, at %s: the next task is to be chosen\n", e.steps-1, time.Duration(e.now))
	ended := 0
	held := e.heldLocks()
	for _, t := range e.tasks[1:e.ntasks] {
		if t.state == done {
			ended++
			continue
		}
		fmt.Fprintf(&b, "  %-28s %s%s\n", t.site(int32(t.op)), e.standing(t), held[t])
	}
	if ended > 0 {
		fmt.Fprintf(&b, "  %d tasks have ended\n", ended)
	}
	for t := e.armedNow(); t != nil; t = t.next {
		fmt.Fprintf(&b, "  timer armed by %-14s due at %s\n", t.by.site(t.born.op), time.Duration(t.due))
	}
	if w, ok := e.inst.(inspector); ok {
		for line := range strings.Lines(strings.TrimRight(w.Inspect(), "\n") + "\n") {
			b.WriteString("  " + line)
		}
	}
	return b.String()
}

// standing says whether a task can run, or for what it waits.
func (e *Run) standing(t *Task) string {
	at := t.at.kind.String()
	if t.at.kind == 0 {
		at = "its beginning"
	}
	switch {
	case t.state == runnable:
		return "can run, at " + at
	case t.state == blocked && t.lock != nil:
		return fmt.Sprintf("waits for the lock %s, which %s holds", t.lock.name, t.lock.owner.Title())
	case t.due >= 0 && t.due != Forever:
		return fmt.Sprintf("waits at %s until %s", at, time.Duration(t.due))
	}
	return "waits at " + at
}

// heldLocks returns the locks that each task holds, as the end of a sentence.
func (e *Run) heldLocks() map[*Task]string {
	type hold struct {
		task int32
		lock int32
	}
	var order []hold
	for i := range e.trace[:min(e.steps, len(e.trace))] {
		s := &e.trace[i]
		switch s.at.kind {
		case AtLocked:
			order = append(order, hold{s.task, s.obj})
		case AtUnlock:
			for k := len(order) - 1; k >= 0; k-- {
				if order[k] == (hold{s.task, s.obj}) {
					order = append(order[:k], order[k+1:]...)
					break
				}
			}
		}
	}
	held := map[*Task]string{}
	for _, h := range order {
		t := e.tasks[h.task]
		held[t] += ", holds " + e.names[h.lock]
	}
	return held
}

// A phase is a part of a run that every run of the world has, and no line lists.
type phase struct {
	at   Stamp
	text string
}

// maxPhases bounds the phases of a run.
const maxPhases = 32

// Phase notes that a part of the run begins that its lines do not list, such as the end
// without faults that a world adds to every run. A report lists these parts if the failure
// is in one of them. text must be constant: Phase hides nothing from the race detector.
//
//go:norace
func (e *Run) Phase(text string) {
	if e.nphases < maxPhases {
		e.phases[e.nphases] = phase{Stamp{e.now, e.steps}, text}
		e.nphases++
	}
}

// endPhase lists the phases up to the failure, as comments of the run's text. It is empty
// if the failure came before the first, or if there is no failure.
func (r *Result) endPhase() string {
	if r.Failure == nil || len(r.phases) == 0 || r.Failure.Step < r.phases[0].at.Step {
		return ""
	}
	var b strings.Builder
	b.WriteString("# then follows the end phase, which every run of this world has:\n")
	for _, p := range r.phases {
		if p.at.Step <= r.Failure.Step {
			fmt.Fprintf(&b, "#   step %d, at %s: %s\n", p.at.Step, time.Duration(p.at.At), p.text)
		}
	}
	fmt.Fprintf(&b, "#   step %d: %s is broken\n", r.Failure.Step, r.Failure.Invariant)
	return b.String()
}
