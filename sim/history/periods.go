package history

import (
	"iter"
	"slices"
)

// period is a time in which a setting of operators may have been in force in one process: from
// the beginning of the change to it to the end of the next change.
type period[T any] struct {
	value    *T
	node     int
	from, to Stamp
}

type periods[T any] []*period[T]

// begin begins the period of a setting that begins to come into force.
func (ps *periods[T]) begin(e *Event) {
	*ps = append(*ps, &period[T]{value: e.Data.(*T), node: e.Node, from: e.Stamp})
}

// set ends all periods of the process but the newest.
func (ps periods[T]) set(e *Event) {
	newest := true
	for _, p := range slices.Backward(ps) {
		if p.node != e.Node {
			continue
		}
		if !newest && p.to.Step == 0 {
			p.to = e.Stamp
		}
		newest = false
	}
}

// during returns the settings that may have been in force in a process between two moments.
func (ps periods[T]) during(node int, from, to Stamp) iter.Seq[*T] {
	return func(yield func(*T) bool) {
		for _, p := range ps {
			if p.node == node && p.to.After(from) && (to.Step == 0 || p.from.Step <= to.Step) && !yield(p.value) {
				return
			}
		}
	}
}

// values returns the values of a limit in a process between two moments: 0 if it had none.
func (r *Run) values(node int, from, to Stamp, of func(*Limits) int) (all []int) {
	for l := range r.limits.during(node, from, to) {
		all = append(all, of(l))
	}
	if all == nil {
		return []int{0}
	}
	return all
}

// lowest returns the lowest of the values.
func (r *Run) lowest(node int, from, to Stamp, of func(*Limits) int) int {
	return slices.Min(r.values(node, from, to, of))
}

// highest returns the highest.
func (r *Run) highest(node int, from, to Stamp, of func(*Limits) int) int {
	return slices.Max(r.values(node, from, to, of))
}

func phonesOf(l *Limits) int     { return l.Phones }
func connsOf(l *Limits) int      { return l.Conns }
func perAddressOf(l *Limits) int { return l.PerAddress }
func burstOf(l *Limits) int      { return l.Burst }
func budgetOf(l *Limits) int     { return l.PhoneOutbox }
func graceOf(l *Limits) int      { return int(l.Grace) }
