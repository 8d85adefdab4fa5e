package sim

import (
	"fmt"
	"strconv"
	"strings"
)

// String is the run as text, which ParseRun reads.
func (r *Run) String() string {
	w, err := FindWorld(r.World)
	if err != nil {
		return err.Error()
	}
	var b strings.Builder
	fmt.Fprintf(&b, "world %s\n", r.World)
	if r.Seed != "" {
		fmt.Fprintf(&b, "seed %s\n", r.Seed)
	}
	if r.Strategy != "" {
		fmt.Fprintf(&b, "strategy %s\n", r.Strategy)
	}
	for _, p := range r.Params {
		fmt.Fprintf(&b, "set %s %d\n", p.Name, p.Value)
	}
	for _, l := range r.Lines {
		switch {
		case l.Begins != "":
			fmt.Fprintf(&b, "%s begins\n", l.Begins)
		case l.At != "":
			fmt.Fprintf(&b, "  at %s run %s\n", l.At, l.Run)
		default:
			fmt.Fprintf(&b, "%s.%d %s\n", l.Op.Actor, l.Op.Label, w.Format(l.Op))
		}
	}
	return b.String()
}

// ParseRun parses a run. The text after # is a comment.
// An operation without a label gets the next one of its actor.
func ParseRun(text string) (*Run, error) {
	r := &Run{}
	var w World
	labels := map[string]int{}
	for n, line := range strings.Split(text, "\n") {
		line, _, _ = strings.Cut(line, "#")
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		var err error
		switch {
		case f[0] == "world" && len(f) == 2:
			r.World = f[1]
			w, err = FindWorld(f[1])
		case f[0] == "seed" && len(f) == 2:
			r.Seed = f[1]
		case f[0] == "strategy" && len(f) == 2:
			r.Strategy = f[1]
		case f[0] == "set" && len(f) == 3:
			var v int
			v, err = strconv.Atoi(f[2])
			r.Params = append(r.Params, Param{f[1], v})
		case f[0] == "at" && len(f) == 4 && f[2] == "run":
			r.Lines = append(r.Lines, Line{At: f[1], Run: f[3]})
			err = checkNames(r.Lines[len(r.Lines)-1])
		case len(f) == 2 && f[1] == "begins":
			r.Lines = append(r.Lines, Line{Begins: f[0]})
			err = checkNames(r.Lines[len(r.Lines)-1])
		case w == nil:
			err = fmt.Errorf("the first line must be: world <name>")
		default:
			var op Op
			if op, err = w.Parse(f[1:]); err != nil {
				break
			}
			var ok bool
			if op.Actor, op.Label, ok = cutOp(f[0]); !ok || strings.ContainsAny(op.Actor, "/@") || op.Actor == "" {
				err = fmt.Errorf("%q names no actor", f[0])
				break
			}
			if op.Label == 0 {
				op.Label = labels[op.Actor] + 1
			}
			if op.Label <= labels[op.Actor] {
				err = fmt.Errorf("%s: labels of an actor must rise", f[0])
			}
			labels[op.Actor] = op.Label
			r.Lines = append(r.Lines, Line{Op: op})
		}
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n+1, err)
		}
	}
	if w == nil {
		return nil, fmt.Errorf("the line world <name> is missing")
	}
	return r, nil
}
