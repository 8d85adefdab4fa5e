package sim

// Coverage goals of the relay world.
const (
	sawRelayWait = iota
	sawOverlappingAlarms
	sawTakenOver
	sawReclaimed
	sawConflict
	sawExpired
	sawHeartbeatMissed
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
	sawDirectiveBehind
	sawCrossing
	sawIllegalDirective
	sawNotice
	sawNoticeCode
	sawFullSlot
	sawNoBinary
	sawRefusedCap
	sawRefusedRate
	sawTooBig
	sawTooSlow
	sawRestartPhones
	sawManyPongs
	sawAborted
	sawTooManyClaimants
	sawTooManyClaimantsLate
	sawAddressFull
	sawWriteFailed
	sawSpreadPhone
	sawSpreadGrace
	sawSpreadGone
	sawShedLoad
	sawShedLoadTwo
	sawLimits
	sawLimitsRefuse
	sawLastPong
	sawDeparted
)

func (relayWorld) CoverageGoals() []string {
	return []string{
		sawRelayWait:            "a task waits for a lock",
		sawOverlappingAlarms:    "two alarms run at the same time",
		sawTakenOver:            "a silent binary is taken over from",
		sawReclaimed:            "a slot is reclaimed",
		sawConflict:             "a probe is answered",
		sawExpired:              "a grace expires",
		sawHeartbeatMissed:      "a heartbeat is missed",
		sawPhoneBacklog:         "a phone's backlog overflows",
		sawBinaryBacklog:        "a phone waits for room in vain",
		sawUnknownPhone:         "a frame names a phone that is not there",
		sawBadEnvelope:          "an envelope means nothing",
		sawInvalid:              "a phone's frame is no JSON",
		sawDroppedClosed:        "frames are dropped with their connection",
		sawPartial:              "a write is partial",
		sawWriteWait:            "a write waits",
		sawWriteTimeout:         "a write times out",
		sawParked:               "a phone is parked for want of room",
		sawUnparked:             "a parked phone is read again",
		sawParkedGrace:          "a phone is held through a grace",
		sawPostponed:            "a probe is postponed",
		sawClaimantGone:         "a claimant disconnects while it waits",
		sawDrainRivals:          "a drain finds rivals waiting",
		sawDirectiveBehind:      "a directive waits behind a backlog",
		sawCrossing:             "two closes cross",
		sawIllegalDirective:     "a directive has an illegal code",
		sawNotice:               "a binary is told that a phone is gone",
		sawNoticeCode:           "a binary is told the code with which a phone closed",
		sawFullSlot:             "a slot is full",
		sawNoBinary:             "a phone finds no binary",
		sawRefusedCap:           "the relay is full",
		sawRefusedRate:          "an address connects too often",
		sawTooBig:               "a message is too big",
		sawTooSlow:              "a message takes too long",
		sawRestartPhones:        "the process dies with phones joined",
		sawManyPongs:            "pings of a peer are answered",
		sawAborted:              "a drain is cut short",
		sawTooManyClaimants:     "the limit of claimants refuses one before its upgrade",
		sawTooManyClaimantsLate: "the limit of claimants closes one after its upgrade",
		sawAddressFull:          "an address has all its connections",
		sawWriteFailed:          "a socket fails with frames half written",
		sawSpreadPhone:          "a drain closes phones one after the other",
		sawSpreadGrace:          "a spread drain finds a slot in grace",
		sawSpreadGone:           "a binary disconnects before a spread drain closes it",
		sawShedLoad:             "ShedLoad closes a connection",
		sawShedLoadTwo:          "ShedLoad closes two connections",
		sawLimits:               "limits change with phones joined",
		sawLimitsRefuse:         "a changed limit refuses a connection",
		sawLastPong:             "a binary dies with a pong on its way, and reconnects immediately",
		sawDeparted:             "an envelope is for a phone that has just left",
	}
}

// coverCounters marks the coverage goals that the relay's counters show.
func (w *relayRun) coverCounters(got map[string]float64) {
	for n, name := range map[int]string{
		sawTakenOver: "takeovers_total", sawReclaimed: "reclaims_total", sawConflict: "claim_conflicts_total",
		sawExpired: "grace_expiries_total", sawHeartbeatMissed: "heartbeat_timeouts_total",
		sawPhoneBacklog: "dropped_frames_total phone_backlog", sawUnknownPhone: "dropped_frames_total unknown_phone",
		sawDeparted:    "dropped_frames_total departed_phone",
		sawBadEnvelope: "dropped_frames_total bad_envelope", sawInvalid: "dropped_frames_total invalid_frame",
		sawDroppedClosed: "dropped_frames_total connection_closed",
	} {
		w.e.Sometimes(n, got["pyrycode_relay_"+name] > 0)
	}
	for _, c := range w.all() {
		w.coverConn(c)
	}
	w.e.Sometimes(sawAborted, w.aborted)
	w.e.Sometimes(sawSpreadGrace, w.graceAtSpread)
}

// coverConn marks the coverage goals that one connection shows.
func (w *relayRun) coverConn(c *client) {
	e := w.e
	if c.status == 503 && w.drained.after(c.dialedAt) {
		tooMany := w.tooManyClaimants(c)
		address, full := w.addressFull(c), w.relayFull(c)
		e.Sometimes(sawTooManyClaimants, tooMany && !address && !full)
		e.Sometimes(sawAddressFull, address && !tooMany && !full)
		e.Sometimes(sawRefusedCap, full && !tooMany && !address)
	}
	e.Sometimes(sawRefusedRate, c.status == 429)
	e.Sometimes(sawLimitsRefuse, c.status == 429 && w.requestsBefore(c) < w.limits().burst || c.code == 4429 &&
		w.others(c, func(o *client) bool { return o.phone && o.server == c.server }) < w.limits().phones)
	if !c.upgraded {
		return
	}
	e.Sometimes(sawPartial, c.sock.writePartial)
	e.Sometimes(sawWriteWait, c.sock.writeWaited)
	e.Sometimes(sawTooManyClaimantsLate, c.code == 1013)
	e.Sometimes(sawWriteFailed, c.sock.writeFailed && len(c.sock.tap.in.bytes) > 0)
	e.Sometimes(sawWriteTimeout, w.exactTiming && c.sock.writeWaited && c.endedWithoutClose && c.faults&didStall != 0)
	e.Sometimes(sawCrossing, c.closeSent && c.closed && (c.code != c.closeWith || c.reason != ""))
	e.Sometimes(sawBinaryBacklog, c.reason == "binary backlog full")
	e.Sometimes(sawFullSlot, c.code == 4429)
	e.Sometimes(sawNoBinary, c.reason == "no server with that id")
	e.Sometimes(sawTooBig, c.code == 1009)
	e.Sometimes(sawTooSlow, c.reason == "message took too long")
	e.Sometimes(sawManyPongs, c.pongs > 0)
	if c.phone {
		w.coverPhone(c)
		return
	}
	e.Sometimes(sawPostponed, c.code == 4409 && c.closedAt.at-c.dialedAt.at > int64(probeTime+probeTime/2))
	if c.left && len(c.known) == 0 {
		e.Sometimes(sawClaimantGone, w.binaries(c, func(b *client) bool {
			return !b.upgradedAt.after(c.upgradedAt) && b.endedAt.after(c.leftAt) && b.leftAt.after(c.leftAt)
		}))
	}
	e.Sometimes(sawLastPong, c.diesAfterPong && c.left && w.latency() > 0 && w.binaries(c, func(b *client) bool {
		return b.dialedAt.step > c.leftAt.step && b.dialedAt.at == c.leftAt.at
	}))
	shutDown := func(b *client) bool {
		return !b.upgradedAt.after(w.drained) && b.closed && b.reason == "shutting down"
	}
	if shutDown(c) {
		e.Sometimes(sawDrainRivals, w.binaries(c, shutDown))
	}
	e.Sometimes(sawSpreadGone, w.spreadDrain.step > 0 && c.left && (!c.closed || c.closedAt.after(c.leftAt)) && c.leftAt.at > w.spreadDrain.at && c.leftAt.at < w.closeDeadline)
	for _, l := range c.flows {
		e.Sometimes(sawNotice, l.notices > 0)
		e.Sometimes(sawNoticeCode, l.notices > 0 && l.notice != 1001)
	}
}

func (w *relayRun) coverPhone(c *client) {
	e := w.e
	e.Sometimes(sawSpreadPhone, c.code == 1012 && c.sock.tap.closed > w.spreadDrain.at)
	e.Sometimes(sawRestartPhones, c.faults&wasCut != 0 && len(c.flow(0).sent) > 1)
	if b, o := w.ordered(c); b != nil && c.closed && c.reason == "" {
		e.Sometimes(sawIllegalDirective, !legalCode(o.code) && c.code == 1011)
		for _, s := range c.stalls {
			e.Sometimes(sawDirectiveBehind, o.at.after(s.from) && s.to.after(o.at) && o.frames > 2)
		}
	}
}

// coverParked looks for phones with unread bytes: the relay has parked them.
// Call it only while no task runs.
//
//go:norace
func (w *relayRun) coverParked() {
	for n := 1; n <= w.nclients; n++ {
		c := w.clients[n].Load()
		if c == nil || !c.phone {
			continue
		}
		switch {
		case c.sock.up.unread():
			if !c.parked {
				c.parked = true
				w.e.Sometimes(sawParked, w.current.shown.InGrace == 0)
				w.e.Sometimes(sawParkedGrace, w.current.shown.InGrace > 0)
			}
		case c.parked:
			c.parked = false
			w.e.Sometimes(sawUnparked, !c.ended)
		}
	}
}
