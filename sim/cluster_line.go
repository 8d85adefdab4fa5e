package sim

// What the nemesis does to a line. A partition cuts a node off from the
// directory, from the bus, or from both.
const (
	cutStore = 1 << iota
	cutBus
	cutAll = cutStore | cutBus
)

// line is one node's connection to the directory and to the bus: its
// cluster.Store and its cluster.Bus. What is wrong with it is written and
// read where the race detector does not look.
type line struct {
	w      *clusterRun
	m      *member
	obj    int32
	rnd    *Rand
	mended Gate // opened when a cut ends

	cuts   int
	held   int64 // the bus delivers nothing to this node before that time
	closed bool
	faults int        // calls of the directory without an answer
	upsets int        // messages lost or late
	badAt  [128]int64 // when the last ones gave up
}

func newLine(w *clusterRun, m *member) *line {
	return &line{w: w, m: m, obj: w.e.Object("line"), rnd: NewRand(m.rnd.Uint64())}
}

//go:norace
func (l *line) isCut(what int) bool { return l.cuts&what != 0 || l.closed }

//go:norace
func (l *line) isClosed() bool { return l.closed }

//go:norace
func (l *line) cut(what int) {
	l.cuts |= what
	l.w.trouble(forever)
	if what&cutBus != 0 {
		l.upsets++
	}
}

// mend ends all cuts.
//
//go:norace
func (l *line) mend() {
	l.cuts, l.held = 0, 0
	l.w.e.Open(&l.mended)
	l.w.hub.nudge(l)
}

// close ends the tasks of the line.
//
//go:norace
func (l *line) close() {
	l.closed = true
	l.w.e.Open(&l.mended)
	l.w.e.Open(&l.w.dir.tells)
	l.w.hub.nudge(l)
}

// fault notes a call of the directory that got no answer.
//
//go:norace
func (l *line) fault() { l.badAt[l.faults%len(l.badAt)] = l.w.e.now; l.faults++ }

// silences counts the calls without an answer between.
func (l *line) silences(from, to int64) (n int) {
	for _, at := range l.badAt[:min(l.faults, len(l.badAt))] {
		if from <= at && at <= to {
			n++
		}
	}
	return n
}

//go:norace
func (l *line) upTo(d int64) int64 {
	if d <= 0 {
		return 0
	}
	return int64(l.rnd.Uint64() % uint64(d))
}

//go:norace
func (l *line) chance(n int) bool { return l.rnd.Chance(n) }

//go:norace
func (l *line) pick(n int) int { return l.rnd.Intn(n) }

// upset: this call of the directory goes wrong.
//
//go:norace
func (l *line) upset() bool {
	n := l.w.store.upset
	return n > 0 && !l.w.calmed && l.rnd.Chance(n)
}

// How slow everything is, in nanoseconds, at most.

//go:norace
func (w *clusterRun) lag() int64 {
	if w.calmed {
		return 0
	}
	return w.store.lag
}

//go:norace
func (w *clusterRun) storeDelay() int64 { return w.store.delay }

//go:norace
func (w *clusterRun) watchDelay() int64 { return w.store.watch }

//go:norace
func (w *clusterRun) stalledUntil() int64 { return w.stalled }
