package sim

// Probes of the relay world.
const (
	sawRelayWait = iota
	sawTwoRings
	sawTakenOver
	sawReclaimed
	sawConflict
	sawExpired
	sawBeatMissed
	sawPhoneBacklog
	sawBinaryBacklog
	sawUnknownPhone
	sawBadEnvelope
	sawInvalid
	sawDroppedClosed
	sawPartial
	sawWriteWait
	sawWriteTimeout
	sawParked
	sawUnparked
	sawParkedGrace
	sawPostponed
	sawClaimantGone
	sawDrainRivals
	sawOrderBehind
	sawCrossing
	sawIllegalOrder
	sawNotice
	sawNoticeCode
	sawFullSlot
	sawNobody
	sawRefusedCap
	sawRefusedRate
	sawTooBig
	sawTooSlow
	sawRestartPhones
	sawManyPongs
	sawAborted
	sawCrowd
	sawCrowdLate
	sawAddressFull
	sawWriteFailed
	sawSpreadPhone
	sawSpreadGrace
	sawSpreadGone
	sawRelieved
	sawRelievedTwo
	sawLimits
	sawLimitsRefuse
	sawLastPong
	sawDeparted
)

func (relayWorld) Probes() []string {
	return []string{
		sawRelayWait:     "a task waits for a lock",
		sawTwoRings:      "an alarm rings while another still does",
		sawTakenOver:     "a silent binary is taken over from",
		sawReclaimed:     "a slot is reclaimed",
		sawConflict:      "a probe is answered",
		sawExpired:       "a grace expires",
		sawBeatMissed:    "a heartbeat is missed",
		sawPhoneBacklog:  "a phone's backlog overflows",
		sawBinaryBacklog: "a phone waits for room in vain",
		sawUnknownPhone:  "a frame names a phone that is not there",
		sawBadEnvelope:   "an envelope means nothing",
		sawInvalid:       "a phone's frame is no JSON",
		sawDroppedClosed: "frames are dropped with their connection",
		sawPartial:       "a write is partial",
		sawWriteWait:     "a write waits",
		sawWriteTimeout:  "a write times out",
		sawParked:        "a phone is parked for want of room",
		sawUnparked:      "it is read again",
		sawParkedGrace:   "a phone is held through a grace",
		sawPostponed:     "a probe is postponed",
		sawClaimantGone:  "a claimant goes while it waits",
		sawDrainRivals:   "a drain finds rivals waiting",
		sawOrderBehind:   "a directive waits behind a backlog",
		sawCrossing:      "two closes cross",
		sawIllegalOrder:  "a directive has an illegal code",
		sawNotice:        "a binary is told that a phone is gone",
		sawNoticeCode:    "and with which code",
		sawFullSlot:      "a slot is full",
		sawNobody:        "a phone finds nobody",
		sawRefusedCap:    "the relay is full",
		sawRefusedRate:   "an address comes too often",
		sawTooBig:        "a message is too big",
		sawTooSlow:       "a message takes too long",
		sawRestartPhones: "the process dies with phones joined",
		sawManyPongs:     "pings of a peer are answered",
		sawAborted:       "a drain is cut short",
		sawCrowd:         "a claimant too many is refused before its upgrade",
		sawCrowdLate:     "one gets past that, and is closed",
		sawAddressFull:   "an address has all it may have",
		sawWriteFailed:   "a socket fails with frames half written",
		sawSpreadPhone:   "a drain closes phones one after the other",
		sawSpreadGrace:   "a spread drain finds a slot in grace",
		sawSpreadGone:    "a binary goes before its turn in a drain",
		sawRelieved:      "memory is short, and somebody holds much",
		sawRelievedTwo:   "and two must go",
		sawLimits:        "limits change with phones joined",
		sawLimitsRefuse:  "and somebody is refused for whom there was room before",
		sawLastPong:      "a binary dies with a pong on its way, and its next life claims at once",
		sawDeparted:      "an envelope is for a phone that has just left",
	}
}

// counted looks for probes in what the relay counted.
func (w *relayRun) counted(got map[string]float64) {
	for n, name := range map[int]string{
		sawTakenOver: "takeovers_total", sawReclaimed: "reclaims_total", sawConflict: "claim_conflicts_total",
		sawExpired: "grace_expiries_total", sawBeatMissed: "heartbeat_timeouts_total",
		sawPhoneBacklog: "dropped_frames_total phone_backlog", sawUnknownPhone: "dropped_frames_total unknown_phone",
		sawDeparted:    "dropped_frames_total departed_phone",
		sawBadEnvelope: "dropped_frames_total bad_envelope", sawInvalid: "dropped_frames_total invalid_frame",
		sawDroppedClosed: "dropped_frames_total connection_closed",
	} {
		w.e.Sometimes(n, got["pyrycode_relay_"+name] > 0)
	}
	for _, c := range w.all() {
		w.seen(c)
	}
	w.e.Sometimes(sawAborted, w.aborted)
	w.e.Sometimes(sawSpreadGrace, w.graceful)
}

// seen looks for probes in what one peer saw.
func (w *relayRun) seen(c *client) {
	e := w.e
	if c.status == 503 && w.drained.after(c.dialedAt) {
		crowd := w.crowded(c)
		address, full := w.addressFull(c), w.full(c)
		e.Sometimes(sawCrowd, crowd && !address && !full)
		e.Sometimes(sawAddressFull, address && !crowd && !full)
		e.Sometimes(sawRefusedCap, full && !crowd && !address)
	}
	e.Sometimes(sawRefusedRate, c.status == 429)
	e.Sometimes(sawLimitsRefuse, c.status == 429 && w.before(c) < w.limits().burst || c.code == 4429 &&
		w.others(c, func(o *client) bool { return o.phone && o.server == c.server }) < w.limits().phones)
	if !c.upgraded {
		return
	}
	e.Sometimes(sawPartial, c.sock.partial)
	e.Sometimes(sawWriteWait, c.sock.waiting)
	e.Sometimes(sawCrowdLate, c.code == 1013)
	e.Sometimes(sawWriteFailed, c.sock.failed && len(c.sock.tap.in.bytes) > 0)
	e.Sometimes(sawWriteTimeout, w.calm && c.sock.waiting && c.lost && c.faults&didStall != 0)
	e.Sometimes(sawCrossing, c.closeSent && c.closed && (c.code != c.closeWith || c.reason != ""))
	e.Sometimes(sawBinaryBacklog, c.reason == "binary backlog full")
	e.Sometimes(sawFullSlot, c.code == 4429)
	e.Sometimes(sawNobody, c.reason == "no server with that id")
	e.Sometimes(sawTooBig, c.code == 1009)
	e.Sometimes(sawTooSlow, c.reason == "message took too long")
	e.Sometimes(sawManyPongs, c.pongs > 0)
	if c.phone {
		w.seenPhone(c)
		return
	}
	e.Sometimes(sawPostponed, c.code == 4409 && c.closedAt.at-c.dialedAt.at > int64(probeTime+probeTime/2))
	if c.left && len(c.known) == 0 {
		e.Sometimes(sawClaimantGone, w.binaries(c, func(b *client) bool {
			return !b.upgradedAt.after(c.upgradedAt) && b.overAt.after(c.leftAt) && b.leftAt.after(c.leftAt)
		}))
	}
	e.Sometimes(sawLastPong, c.dying && c.left && w.latency() > 0 && w.binaries(c, func(b *client) bool {
		return b.dialedAt.step > c.leftAt.step && b.dialedAt.at == c.leftAt.at
	}))
	parted := func(b *client) bool {
		return !b.upgradedAt.after(w.drained) && b.closed && b.reason == "shutting down"
	}
	if parted(c) {
		e.Sometimes(sawDrainRivals, w.binaries(c, parted))
	}
	e.Sometimes(sawSpreadGone, w.spread.step > 0 && c.left && (!c.closed || c.closedAt.after(c.leftAt)) && c.leftAt.at > w.spread.at && c.leftAt.at < w.closedBy)
	for _, l := range c.flows {
		e.Sometimes(sawNotice, l.notices > 0)
		e.Sometimes(sawNoticeCode, l.notices > 0 && l.notice != 1001)
	}
}

func (w *relayRun) seenPhone(c *client) {
	e := w.e
	e.Sometimes(sawSpreadPhone, c.code == 1012 && c.sock.tap.closed > w.spread.at)
	e.Sometimes(sawRestartPhones, c.faults&wasCut != 0 && len(c.flow(0).sent) > 1)
	if b, o := w.ordered(c); b != nil && c.closed && c.reason == "" {
		e.Sometimes(sawIllegalOrder, !legalCode(o.code) && c.code == 1011)
		for _, s := range c.stalls {
			e.Sometimes(sawOrderBehind, o.at.after(s.from) && s.to.after(o.at) && o.frames > 2)
		}
	}
}

// lookAtRest looks for phones that are not read although there is something
// to read. Nothing runs meanwhile.
//
//go:norace
func (w *relayRun) lookAtRest() {
	for n := 1; n <= w.nclients; n++ {
		c := w.clients[n].Load()
		if c == nil || !c.phone {
			continue
		}
		switch {
		case c.sock.up.unread():
			if !c.parked {
				c.parked = true
				w.e.Sometimes(sawParked, w.cur.shown.InGrace == 0)
				w.e.Sometimes(sawParkedGrace, w.cur.shown.InGrace > 0)
			}
		case c.parked:
			c.parked = false
			w.e.Sometimes(sawUnparked, !c.over)
		}
	}
}
