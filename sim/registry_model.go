package sim

import (
	"github.com/pyrycode/pyrycode-relay/internal/relay"
	"github.com/pyrycode/pyrycode-relay/internal/wire"
	"github.com/pyrycode/pyrycode-relay/sim/engine"
)

// The model is a reference implementation of the registry, as simple as
// possible: arrays with linear search. It shares no code and no data structure
// with the registry. A call is applied to it just before the registry releases
// its lock.

type (
	binary int32
	phone  int32
)

// A call is one operation on the registry: what was asked, what the model
// answers, and when it happened.
type call struct {
	verb      int
	id        int
	binary    binary
	incumbent binary
	phone     phone
	timer     *engine.Timer
	from, to  int // steps

	applied bool // applied to the model
	outcome relay.Outcome
	yes     bool
	holder  binary
	gone    *[maxPhones]phone // phones that lose their slot, in the order they joined
	ngone   int
	slots   [maxIDs]wire.ServerID // in use when a drain begins, in the order their binaries came
	nslots  int
	counts  relay.Counts // as a scrape shows them
	expired int

	got      relay.Outcome // the registry's answer
	gotYes   bool
	gotOwner binary
	acted    bool
}

const maxPhones = 16 // of one slot

type modelSlot struct {
	used       bool
	holder     binary // 0 in grace
	timer      *engine.Timer
	grantOrder int32
	phones     [maxPhones]phone
	n          int
}

type model struct {
	slots     [maxIDs]modelSlot
	max       int
	lastGrant int32
	draining  bool
	expired   int
	counts    relay.Counts
	broken    string // describes a call that must be wrong
}

//go:norace
func (m *model) apply(t *engine.Task, c *call) {
	c.applied = true
	s := &m.slots[c.id]
	switch c.verb {
	case doClaim:
		switch {
		case m.draining:
			c.outcome = relay.Refused
		case !s.used:
			s.used, s.timer, s.n = true, nil, 0
			m.grant(s, c)
			c.outcome = relay.Claimed
		case s.holder == 0:
			c.outcome = relay.Reclaimed
			s.evict(c)
			c.timer, s.timer = s.timer, nil
			m.grant(s, c)
		default:
			c.outcome, c.holder = relay.Held, s.holder
		}
	case doTakeover:
		switch {
		case m.draining:
			c.outcome = relay.Refused
		case !s.used || s.holder == 0:
			c.outcome = relay.Vacant
		case s.holder != c.incumbent:
			c.outcome, c.holder = relay.Held, s.holder
		default:
			c.outcome = relay.TakenOver
			s.evict(c)
			m.grant(s, c)
		}
	case doRelease:
		if s.used && s.holder == c.binary {
			c.yes = true
			s.holder, s.timer = 0, t.Armed()
			c.timer = t.Armed()
			if s.timer != nil {
				s.timer.Tag = c.id + 1
			} else {
				m.broken = "released into a grace without a timer"
			}
		}
	case doHolds:
		c.yes = s.used && s.holder == c.binary
	case doJoin:
		switch {
		case m.draining:
			c.outcome = relay.Refused
		case !s.used:
			c.outcome = relay.NoServer
		case s.n >= m.max:
			c.outcome = relay.Full
		default:
			c.outcome, c.holder = relay.Joined, s.holder
			s.phones[s.n] = c.phone
			s.n++
		}
	case doLeave:
		c.yes = s.remove(c.phone)
	case doDrain:
		m.draining = true
		m.drain(c)
	case doRevoke:
		if s.used {
			c.holder, c.yes = s.holder, true
			s.evict(c)
			s.used, s.holder = false, 0
			c.timer, s.timer = s.timer, nil
		}
	case doNext: // a timer of a grace
		for i := range m.slots {
			if s := &m.slots[i]; s.used && s.holder == 0 && s.timer == c.timer {
				c.id, c.yes = i, true
				s.evict(c)
				s.used = false
				m.expired++
			}
		}
	}
	m.count()
	c.counts, c.expired = m.counts, m.expired
}

//go:norace
func (m *model) grant(s *modelSlot, c *call) {
	m.lastGrant++
	s.holder, s.grantOrder = c.binary, m.lastGrant
}

// drain lists the slots in use, sorted by grant order.
//
//go:norace
func (m *model) drain(c *call) {
	last := int32(0)
	for {
		first := -1
		for i := range m.slots {
			if s := &m.slots[i]; s.used && s.grantOrder > last && (first < 0 || s.grantOrder < m.slots[first].grantOrder) {
				first = i
			}
		}
		if first < 0 {
			return
		}
		last = m.slots[first].grantOrder
		c.slots[c.nslots] = serverIDs[first]
		c.nslots++
	}
}

// evict moves the slot's phones to those that the call must close.
//
//go:norace
func (s *modelSlot) evict(c *call) {
	if !s.used {
		return
	}
	if s.n > 0 && c.gone == nil {
		c.gone = new([maxPhones]phone)
	}
	for i := 0; i < s.n; i++ {
		c.gone[c.ngone] = s.phones[i]
		c.ngone++
	}
	s.n = 0
}

//go:norace
func (s *modelSlot) remove(p phone) bool {
	for i := 0; s.used && i < s.n; i++ {
		if s.phones[i] == p {
			s.n--
			for ; i < s.n; i++ {
				s.phones[i] = s.phones[i+1]
			}
			return true
		}
	}
	return false
}

//go:norace
func (m *model) count() {
	var c relay.Counts
	for i := range m.slots {
		s := &m.slots[i]
		if !s.used {
			continue
		}
		if s.holder == 0 {
			c.InGrace++
		} else {
			c.Binaries++
		}
		c.Phones += s.n
	}
	m.counts = c
}

// waiting counts the graces whose timer has not fired.
//
//go:norace
func (m *model) waiting() int {
	n := 0
	for i := range m.slots {
		if s := &m.slots[i]; s.used && s.holder == 0 && s.timer != nil && !s.timer.Fired() {
			n++
		}
	}
	return n
}

// state returns a hash of the model's state.
//
//go:norace
func (m *model) state() uint64 {
	h := uint64(1)
	for i := range m.slots {
		s := &m.slots[i]
		if !s.used {
			h = engine.Mix(h)
			continue
		}
		h = engine.Mix(h ^ uint64(s.holder)<<8 ^ uint64(s.n)<<1 ^ 1)
		if s.timer != nil && s.timer.Fired() {
			h = engine.Mix(h + 7)
		}
		for j := 0; j < s.n; j++ {
			h = engine.Mix(h ^ uint64(s.phones[j])<<32)
		}
	}
	if m.draining {
		h = engine.Mix(h + 3)
	}
	return h
}
