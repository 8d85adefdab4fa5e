package sim

import (
	"cmp"
	"slices"
	"strconv"
)

// An Op is one operation of an actor.
type Op struct {
	Actor string
	Label int // which of the actor's operations; stays when others are deleted
	Verb  int
	Arg   int

	order int
}

// A Line is one entry of a listing: an operation, the moment at which a
// task that is not an actor begins, or a switch.
type Line struct {
	Op     Op
	Begins string // the task that begins here
	At     string // a point; there the task Run goes on
	Run    string
}

// A Param is a setting of the world in one run.
type Param struct {
	Name  string
	Value int
}

// A Run is data: the operations, and where the schedule differs from the order
// of the lines. Any subset of its lines is a run, too.
type Run struct {
	World    string
	Seed     string
	Strategy string
	Params   []Param
	Lines    []Line
}

// Param returns a setting, or otherwise if the run does not have it.
func (r *Run) Param(name string, otherwise int) int {
	for _, p := range r.Params {
		if p.Name == name {
			return p.Value
		}
	}
	return otherwise
}

// Ops counts the operations.
func (r *Run) Ops() int {
	n := 0
	for i := range r.Lines {
		if r.Lines[i].Op.Actor != "" {
			n++
		}
	}
	return n
}

// Switches counts the switches.
func (r *Run) Switches() int {
	n := 0
	for i := range r.Lines {
		if r.Lines[i].At != "" {
			n++
		}
	}
	return n
}

func (r *Run) with(lines []Line) *Run {
	c := *r
	c.Lines = lines
	return &c
}

type actor struct {
	name string
	ops  []Op
}

// actors groups the operations by actor.
func (r *Run) actors() []actor {
	var as []actor
	for i := range r.Lines {
		op := r.Lines[i].Op
		if op.Actor == "" {
			continue
		}
		op.order = i + 1
		k := slices.IndexFunc(as, func(a actor) bool { return a.name == op.Actor })
		if k < 0 {
			as = append(as, actor{name: op.Actor})
			k = len(as) - 1
		}
		as[k].ops = append(as[k].ops, op)
	}
	// By name, so that a task has the same number whatever comes first.
	slices.SortFunc(as, func(a, b actor) int { return cmp.Compare(a.name, b.name) })
	return as
}

func (r *Run) taskOrders() []taskOrder {
	var l []taskOrder
	for i := range r.Lines {
		if b := r.Lines[i].Begins; b != "" {
			if k, ok := taskKey(b); ok {
				l = append(l, taskOrder{k, i + 1})
			}
		}
	}
	return l
}

// A Seed is a number, or the hash of a commit.
type Seed string

// Number is the seed as the engine takes it.
func (s Seed) Number() (uint64, bool) {
	if n, err := strconv.ParseUint(string(s), 10, 64); err == nil {
		return n, true
	}
	if len(s) != 40 {
		return 0, false
	}
	h := uint64(0)
	for i := range len(s) {
		c := s[i]
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return 0, false
		}
		h = mix(h ^ uint64(c))
	}
	return h, true
}
