package history

// limitsPeriod is a period in which limits were in force in one process: from the
// beginning of the change to them to the end of the next change.
type limitsPeriod struct {
	Limits
	node     int
	from, to Stamp
}

// limitsSet ends all periods of the process but the newest.
func (r *Run) limitsSet(e *Event) {
	newest := true
	for i := len(r.limits) - 1; i >= 0; i-- {
		p := r.limits[i]
		if p.node != e.Node {
			continue
		}
		if !newest && p.to.Step == 0 {
			p.to = e.Stamp
		}
		newest = false
	}
}

// lowest returns the lowest value of a limit in a process between two moments.
func (r *Run) lowest(node int, from, to Stamp, of func(*Limits) int) int {
	return r.extreme(node, from, to, of, func(a, b int) int { return min(a, b) })
}

// highest returns the highest.
func (r *Run) highest(node int, from, to Stamp, of func(*Limits) int) int {
	return r.extreme(node, from, to, of, func(a, b int) int { return max(a, b) })
}

func (r *Run) extreme(node int, from, to Stamp, of func(*Limits) int, better func(a, b int) int) int {
	v, found := 0, false
	for _, p := range r.limits {
		if p.node != node || !p.to.After(from) || to.Step > 0 && p.from.Step > to.Step {
			continue
		}
		if !found {
			v, found = of(&p.Limits), true
		}
		v = better(v, of(&p.Limits))
	}
	return v
}

func phonesOf(l *Limits) int     { return l.Phones }
func connsOf(l *Limits) int      { return l.Conns }
func perAddressOf(l *Limits) int { return l.PerAddress }
func burstOf(l *Limits) int      { return l.Burst }
func budgetOf(l *Limits) int     { return l.PhoneOutbox }
func graceOf(l *Limits) int      { return int(l.Grace) }
