package engine

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
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
// task that is not an actor begins, a switch, or a failure of a fault point.
type Line struct {
	Op     Op
	Begins string // the task that begins here
	At     string // a point; there the task Run goes on
	Run    string
	Fails  string // a fault point, its object, and which of its passes fails
}

// A Param is a setting of the world in one run.
type Param struct {
	Name  string
	Value int
}

// A Plan is data: the operations, and where the schedule differs from the order
// of the lines. Any subset of its lines is a run, too.
type Plan struct {
	World    World
	Seed     string
	Strategy string
	Params   []Param
	Lines    []Line
}

func (r *Plan) worldName() string {
	if r.World == nil {
		return "unknown"
	}
	return r.World.Name()
}

// Param returns a setting, or otherwise if the run does not have it.
func (r *Plan) Param(name string, otherwise int) int {
	for _, p := range r.Params {
		if p.Name == name {
			return p.Value
		}
	}
	return otherwise
}

// Ops counts the operations.
func (r *Plan) Ops() int {
	n := 0
	for i := range r.Lines {
		if r.Lines[i].Op.Actor != "" {
			n++
		}
	}
	return n
}

// Switches counts the switches.
func (r *Plan) Switches() int {
	n := 0
	for i := range r.Lines {
		if r.Lines[i].At != "" {
			n++
		}
	}
	return n
}

func (r *Plan) with(lines []Line) *Plan {
	c := *r
	c.Lines = lines
	return &c
}

type actor struct {
	name string
	ops  []Op
}

// actors groups the operations by actor.
func (r *Plan) actors() []actor {
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

// Actors returns the names of all actors, sorted. Task.Actor is an index of it.
func (r *Plan) Actors() []string {
	var names []string
	for _, a := range r.actors() {
		names = append(names, a.name)
	}
	return names
}

func (r *Plan) taskOrders() []taskOrder {
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

// A Planner collects what the actors of a run do, for [World.Plan].
type Planner struct {
	Rand *Rand
	Plan Plan   // its Params are set; its Lines are for Interleave
	List [][]Op // the operations of each actor
}

// Interleave moves the operations of all actors into the run's lines, in a
// random order that keeps the order of each actor.
func (p *Planner) Interleave() *Plan {
	for len(p.List) > 0 {
		i := p.Rand.Intn(len(p.List))
		p.Plan.Lines = append(p.Plan.Lines, Line{Op: p.List[i][0]})
		if p.List[i] = p.List[i][1:]; len(p.List[i]) == 0 {
			p.List = append(p.List[:i], p.List[i+1:]...)
		}
	}
	return &p.Plan
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
		h = Mix(h ^ uint64(c))
	}
	return h, true
}

// String is the run as text, which ParsePlan reads.
func (r *Plan) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "world %s\n", r.worldName())
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
		case l.Fails != "":
			fmt.Fprintf(&b, "fail %s\n", l.Fails)
		case l.At != "":
			fmt.Fprintf(&b, "  at %s run %s\n", l.At, l.Run)
		default:
			fmt.Fprintf(&b, "%s.%d %s\n", l.Op.Actor, l.Op.Label, r.World.Format(l.Op))
		}
	}
	return b.String()
}

// ParsePlan parses a run of one of the worlds. The text after # is a comment.
// An operation without a label gets the next one of its actor.
func ParsePlan(text string, worlds ...World) (*Plan, error) {
	r := &Plan{}
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
			r.World, err = FindWorld(f[1], worlds...)
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
		case f[0] == "fail":
			_, err = parseFault(f[1:])
			r.Lines = append(r.Lines, Line{Fails: strings.Join(f[1:], " ")})
		case len(f) == 2 && f[1] == "begins":
			r.Lines = append(r.Lines, Line{Begins: f[0]})
			err = checkNames(r.Lines[len(r.Lines)-1])
		case r.World == nil:
			err = fmt.Errorf("the first line must be: world <name>")
		default:
			var op Op
			if op, err = r.World.Parse(f[1:]); err != nil {
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
	if r.World == nil {
		return nil, fmt.Errorf("the line world <name> is missing")
	}
	return r, nil
}

// Rand is the only source of chance in a run: splitmix64, so that a seed
// means the same on every machine and with every Go release.
type Rand struct{ s uint64 }

// NewRand starts the stream of numbers that belongs to a seed.
func NewRand(seed uint64) *Rand { return &Rand{s: Mix(seed + 0x9e3779b97f4a7c15)} }

// Uint64 returns the next 64 bits.
//
//go:norace
func (r *Rand) Uint64() uint64 {
	r.s += 0x9e3779b97f4a7c15
	return Mix(r.s)
}

// Intn returns a number in [0, n); n must be positive.
//
//go:norace
func (r *Rand) Intn(n int) int {
	return int((r.Uint64() >> 32) * uint64(n) >> 32)
}

// Chance is true once in n calls.
//
//go:norace
func (r *Rand) Chance(n int) bool { return r.Intn(n) == 0 }

// Read fills p; it makes Rand a source of ids.
//
//go:norace
func (r *Rand) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(r.Uint64())
	}
	return len(p), nil
}

//go:norace
func Mix(x uint64) uint64 {
	x ^= x >> 30
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 27
	x *= 0x94d049bb133111eb
	return x ^ x>>31
}

// Uint64 returns a random number. In a run it follows from the seed. Without a run
// (e is nil) it is that of math/rand/v2.
//
//go:norace
func (e *Run) Uint64() uint64 {
	if e == nil {
		return rand.Uint64()
	}
	return e.rand.Uint64()
}

// Intn returns a random number in [0, n); n must be positive. e may be nil.
//
//go:norace
func (e *Run) Intn(n int) int {
	if e == nil {
		return rand.IntN(n)
	}
	return e.rand.Intn(n)
}
