package sim

// A fault is an action of a peer or the network that excuses some behaviour of
// the relay.
type fault uint16

const (
	didStall fault = 1 << iota
	didIgnorePings
	didVanish
	didHangUp
	didBreak
	didBad
	didBig
	didDribble
	wasReset
	wasCut
)

type span struct{ from, to stamp }

// A stamp is the time of an event. The step orders events at the same time.
type stamp struct {
	at   int64
	step int // 0: never
}

func (w *relayRun) stamp() stamp { return stamp{w.e.Now(), w.e.Steps() + 1} }

// after reports whether s is after o. Never is after everything.
func (s stamp) after(o stamp) bool { return s.step == 0 || s.step > o.step }

// A flow is the frames between one phone and one binary, as one of them
// sees it.
type flow struct {
	sent           []sent
	got            []stamp // when
	from           int     // of a phone: its binary
	since          stamp   // when its first frame arrived
	orders         []order
	notices        int
	notice         int
	noticeReceived bool // the close notice has arrived
	toldAt         stamp
}

type sent struct {
	stamp
	size int
}

// order is a close directive: after so many frames, with that code.
type order struct {
	frames int
	code   int
	at     stamp
}
