package sim

import "time"

// Do carries out one operation.
func (w *clusterRun) Do(t *Task, op Op) {
	if t.Actor >= maxActors {
		return
	}
	w.awaitUp()
	w.noteDoing(op)
	m := w.at(op.Arg % maxPlaces)
	switch op.Verb {
	case rScrape, rCheck:
		w.operate(m.node, op.Verb, 0)
	case rRestart, rDrain, rSpread, rAbort, rHealth:
	case cCutStore, cCutBus, cCutAll:
		m.line.cut([...]int{cutStore, cutBus, cutAll}[op.Verb-cCutStore])
		w.e.Yield(AtPoint, m.line.obj)
	case cMend:
		w.mendAll()
	case cStall:
		w.stall(int64(op.Arg) * int64(time.Second))
	case cHold:
		m.line.hold(int64(3 * time.Second))
	case cFreeze:
		w.freeze(m, [...]int64{2, 8, 27, 40}[op.Arg/maxPlaces%4]*int64(time.Second))
	case cThaw:
		w.thawAll()
	case cKill:
		if !m.gone() {
			w.kill(m)
		}
	case cLeave:
		if !m.gone() {
			w.leave(m, 0)
		}
	case cBoot:
		w.bootGone()
	case cLeap:
		w.leap()
		w.dir.leap(int64(op.Arg) * int64(time.Second))
	case cWipe:
		w.leap()
		w.dir.wipe()
	default:
		w.relayRun.Do(t, op)
	}
}

// bootGone starts the processes that are gone.
func (w *clusterRun) bootGone() {
	for i := range w.size {
		if w.at(i).isEnded() && (w.births < 20 || w.calmed) && w.bootBegins() {
			w.boot(i)
			w.trouble(int64(3*time.Second) - echoOf) // it must hear of the others first, and they of it
			w.bootEnds()
		}
	}
}

// One process is made at a time.
//
//go:norace
func (w *clusterRun) bootBegins() bool {
	if w.booting {
		return false
	}
	w.booting = true
	return true
}

//go:norace
func (w *clusterRun) bootEnds() { w.booting = false }

func (w *clusterRun) thawAll() {
	for i := range w.size {
		w.at(i).unfreeze()
	}
	w.untrouble()
	w.e.Yield(AtPoint, 0)
}

//go:norace
func (w *clusterRun) stall(d int64) {
	if !w.calmed {
		w.stalled = max(w.stalled, w.e.now+d)
		w.trouble(d)
	}
}

//go:norace
func (l *line) hold(d int64) {
	l.held = l.w.e.now + d
	l.upsets++
	l.w.trouble(d)
}

//go:norace
func (w *clusterRun) leap() { w.leapt = true; w.trouble(0) }

// mendAll ends all cuts.
func (w *clusterRun) mendAll() {
	for i := range w.size {
		if m := w.at(i); !m.isEnded() {
			m.line.mend()
		}
	}
	w.untrouble()
	w.e.Yield(AtPoint, 0)
}

// freeze lets a process stand still for so long, unless all thaw before.
func (w *clusterRun) freeze(m *member, d int64) {
	m.freeze()
	w.e.Go("thaw", func() {
		w.e.Sleep(d)
		m.unfreeze()
		w.untrouble()
	})
}

// trouble notes that something is wrong for so long from now, or, forever,
// until untrouble.
//
//go:norace
func (w *clusterRun) trouble(d int64) {
	if w.ntroubles == len(w.troubles) {
		w.ntroubles--
	}
	t := &w.troubles[w.ntroubles]
	t.from, t.to = w.e.now, forever
	if d != forever {
		t.to = w.e.now + d
	}
	w.ntroubles++
}

// untrouble ends all that nobody is cut off or frozen by any more.
//
//go:norace
func (w *clusterRun) untrouble() {
	for i := 0; i < w.nmembers; i++ {
		if m := w.members[i]; m.frozen || m.line.cuts != 0 && !m.ended {
			return
		}
	}
	for i := 0; i < w.ntroubles; i++ {
		if t := &w.troubles[i]; t.to == forever {
			t.to = w.e.now
		}
	}
}
