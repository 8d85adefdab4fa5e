package sim

// A fault is something that a peer or the network did, after which less can
// be asked of the relay.
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

// A stamp is when something happened. The step orders what happens at one
// time.
type stamp struct {
	at   int64
	step int // 0: never
}

func (w *relayRun) stamp() stamp { return stamp{w.e.Now(), w.e.Steps() + 1} }

// never or after o.
func (s stamp) after(o stamp) bool { return s.step == 0 || s.step > o.step }

// A flow is the frames between one phone and one binary, as one of them
// sees it.
type flow struct {
	sent           []sent
	got            []stamp // when
	from           int     // the binary, for a phone
	since          stamp   // when its first frame came
	orders         []order
	notices        int
	notice         int
	noticeReceived bool // the notice has come
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
