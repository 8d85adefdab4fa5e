package sim

import (
	"github.com/pyrycode/pyrycode-relay/internal/relay"
	"github.com/pyrycode/pyrycode-relay/internal/wire"
	"github.com/pyrycode/pyrycode-relay/sim/engine"
)

// The model is a reference implementation of the registry in its simplest form: arrays with
// linear search. It shares no code and no data structure with the registry. The run applies
// a call to the model just before the registry releases its lock, and compares the answers. Each
// call takes the lock once. So the order of the releases is an order of the calls that explains
// all answers, and no search for such an order is needed.

type (
	binary int32
	phone  int32
)

// A call is one call of the registry: its arguments, the answer of the model, and the answer of
// the registry.
type call struct {
	verb      int
	id        int
	binary    binary
	incumbent binary
	phone     phone
	timer     *engine.Timer

	// The answer of the model.
	applied bool // the model has applied the call
	outcome relay.Outcome
	yes     bool
	holder  binary
	gone    *[maxPhones]phone // the evicted phones in the order in which they joined
	ngone   int
	slots   [maxIDs]wire.ServerID // the slots in use when a drain begins, in grant order
	nslots  int
	counts  relay.Counts // after the call
	expired int          // after the call

	// The answer of the registry.
	got      relay.Outcome
	gotYes   bool
	gotOwner binary
	acted    bool // the registry has called Expired
}

func (c *call) serverID() wire.ServerID { return serverIDs[c.id%maxIDs] }

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
	remote    [maxConns]bool // phones with their socket at another node
	broken    string         // describes a call that broke a rule
}

// apply applies a call to the model and sets the model's answer. t is the task of the call.
//
//go:norace
func (m *model) apply(t *engine.Task, c *call) {
	c.applied = true
	s := &m.slots[c.id]
	switch c.verb {
	case doClaim:
		m.claim(s, c)
	case doTakeover:
		m.takeover(s, c)
	case doRelease:
		m.release(t, s, c)
	case doHolds:
		c.yes = s.used && s.holder == c.binary
	case doJoin, doJoinRemote:
		m.join(s, c)
	case doLeave:
		c.yes = s.remove(c.phone)
	case doDrain:
		m.drain(c)
	case doRevoke:
		m.revoke(s, c)
	case doNext:
		m.expire(c)
	}
	m.count()
	c.counts, c.expired = m.counts, m.expired
}

//go:norace
func (m *model) claim(s *modelSlot, c *call) {
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
}

//go:norace
func (m *model) takeover(s *modelSlot, c *call) {
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
}

//go:norace
func (m *model) release(t *engine.Task, s *modelSlot, c *call) {
	if !s.used || s.holder != c.binary {
		return
	}
	c.yes = true
	s.holder, s.timer = 0, t.Armed()
	c.timer = t.Armed()
	if s.timer != nil {
		s.timer.Tag = c.id + 1
	} else {
		m.broken = "a release began a grace without a timer"
	}
}

//go:norace
func (m *model) join(s *modelSlot, c *call) {
	switch {
	case m.draining:
		c.outcome = relay.Refused
	case !s.used:
		c.outcome = relay.NoServer
	case s.n >= m.max:
		c.outcome = relay.Full
	default:
		c.outcome, c.holder = relay.Joined, s.holder
		m.remote[c.phone] = c.verb == doJoinRemote
		s.phones[s.n] = c.phone
		s.n++
	}
}

//go:norace
func (m *model) revoke(s *modelSlot, c *call) {
	if !s.used {
		return
	}
	c.holder, c.yes = s.holder, true
	s.evict(c)
	s.used, s.holder = false, 0
	c.timer, s.timer = s.timer, nil
}

// expire applies the timer of a grace. If no slot has this timer, it is stale.
//
//go:norace
func (m *model) expire(c *call) {
	for i := range m.slots {
		if s := &m.slots[i]; s.used && s.holder == 0 && s.timer == c.timer {
			c.id, c.yes = i, true
			s.evict(c)
			s.used = false
			m.expired++
		}
	}
}

// grant gives the slot to the call's binary.
//
//go:norace
func (m *model) grant(s *modelSlot, c *call) {
	m.lastGrant++
	s.holder, s.grantOrder = c.binary, m.lastGrant
}

// drain begins the drain and lists the slots in use, sorted by grant order.
//
//go:norace
func (m *model) drain(c *call) {
	m.draining = true
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

// evict moves the slot's phones to the phones that the call evicts.
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

// remove removes a phone from the slot. It returns false if the slot does not have it.
//
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

// count computes the counts.
//
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
		for j := 0; j < s.n; j++ {
			if m.remote[s.phones[j]] {
				c.Remote++
			} else {
				c.Phones++
			}
		}
	}
	m.counts = c
}

// waiting returns the number of graces with a timer that has not fired.
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
