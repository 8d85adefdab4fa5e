package relayworld

import "github.com/pyrycode/pyrycode-relay/sim/history"

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
	sawNoAccess
	sawVerifierGone
	sawBoundToOther
	sawAccessLost
	sawAccessLostLate
	sawAccessLostPhone
	sawNotOwner
	sawOldProof
	sawNotOwnerLate
	sawKickedBinary
	sawKickedPhone
	sawKickedClaimant
	sawKickedGrace
	sawBanned
	sawBannedLate
)

func (World) CoverageGoals() []string {
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
		sawNoAccess:             "a binary has no access",
		sawBoundToOther:         "a binary is refused because another token has claimed its server-id",
		sawVerifierGone:         "the verifier does not answer",
		sawAccessLost:           "a binary loses its access",
		sawAccessLostLate:       "a binary loses its access between the answer and its slot",
		sawAccessLostPhone:      "a phone is closed because its server-id has lost its access",
		sawNotOwner:             "a binary without the key of its server-id is refused",
		sawOldProof:             "a binary with an old proof of the key is refused",
		sawNotOwnerLate:         "a binary meets the owner of its server-id after its upgrade",
		sawKickedBinary:         "an operator disconnects a binary that serves phones",
		sawKickedPhone:          "an operator disconnects a phone",
		sawKickedClaimant:       "an operator disconnects a claimant",
		sawKickedGrace:          "an operator ends a slot in grace",
		sawBanned:               "a banned client is refused",
		sawBannedLate:           "a ban comes while its client connects",
		sawDeparted:             "an envelope is for a phone that has just left",
	}
}

// coverCounters marks the coverage goals that the relay's counters show.
func (w *Instance) coverCounters(got history.Metrics) {
	for n, name := range map[int]string{
		sawTakenOver: "takeovers_total", sawReclaimed: "reclaims_total", sawConflict: "claim_conflicts_total",
		sawExpired: "grace_expiries_total", sawHeartbeatMissed: "heartbeat_timeouts_total",
		sawPhoneBacklog: "dropped_frames_total phone_backlog", sawUnknownPhone: "dropped_frames_total unknown_phone",
		sawDeparted:    "dropped_frames_total departed_phone",
		sawBadEnvelope: "dropped_frames_total bad_envelope", sawInvalid: "dropped_frames_total invalid_frame",
		sawDroppedClosed: "dropped_frames_total connection_closed",
	} {
		w.Engine.Sometimes(n, got["pyrycode_relay_"+name] > 0)
	}
}

// cover marks the coverage goals that the history shows.
func (w *Instance) cover() {
	for _, n := range w.hist.Nodes[1:] {
		w.coverCounters(n.Last)
	}
	for _, c := range w.All() {
		w.coverConn(c)
		w.coverAccess(c)
		w.coverOwner(c)
		w.coverDisconnects(c)
	}
	d := w.drain0()
	w.Engine.Sometimes(sawAborted, d.Aborted)
	w.Engine.Sometimes(sawShedLoad, w.hist.MostShed() > 0)
	w.Engine.Sometimes(sawShedLoadTwo, w.hist.MostShed() > 1)
}

// drain0 returns the process that drains at the end of each run.
func (w *Instance) drain0() *history.Node { return w.hist.Nodes[w.current.N] }

// coverConn marks the coverage goals that one connection shows.
func (w *Instance) coverConn(c *Client) {
	e, h, d := w.Engine, w.hist, w.drain0()
	if c.Status == 503 && d.Drained.After(c.DialedAt) {
		tooMany := h.TooManyClaimants(c.Conn)
		address, full := h.AddressFull(c.Conn), h.Full(c.Conn)
		e.Sometimes(sawTooManyClaimants, tooMany && !address && !full)
		e.Sometimes(sawAddressFull, address && !tooMany && !full)
		e.Sometimes(sawRefusedCap, full && !tooMany && !address)
	}
	e.Sometimes(sawRefusedRate, c.Status == 429)
	e.Sometimes(sawLimitsRefuse, c.Status == 429 && h.RequestsBefore(c.Conn) < w.limits().Burst || c.Code == 4429 &&
		h.Others(c.Conn, func(o *history.Conn) bool { return o.Phone && o.Server == Servers[c.Server] }) < w.limits().Phones)
	if !c.Upgraded {
		return
	}
	e.Sometimes(sawPartial, c.Sock.writePartial)
	e.Sometimes(sawWriteWait, c.Sock.writeWaited)
	e.Sometimes(sawTooManyClaimantsLate, c.Code == 1013)
	e.Sometimes(sawWriteFailed, c.Sock.writeFailed && len(c.Sock.Tap.in.bytes) > 0)
	e.Sometimes(sawWriteTimeout, w.exactTiming && c.Sock.writeWaited && c.Ended && !c.Closed && c.Faults&DidStall != 0)
	e.Sometimes(sawCrossing, c.CloseSent && c.Closed && (c.Code != c.CloseWith || c.Reason != ""))
	e.Sometimes(sawBinaryBacklog, c.Reason == "binary backlog full")
	e.Sometimes(sawFullSlot, c.Code == 4429)
	e.Sometimes(sawNoBinary, c.Reason == "no server with that id")
	e.Sometimes(sawTooBig, c.Code == 1009)
	e.Sometimes(sawTooSlow, c.Reason == "message took too long")
	e.Sometimes(sawManyPongs, c.pongs > 0)
	if c.Phone {
		w.coverPhone(c)
		return
	}
	e.Sometimes(sawPostponed, c.Code == 4409 && c.ClosedAt.At-c.DialedAt.At > int64(ProbeTime+ProbeTime/2))
	if c.Left && len(c.known) == 0 {
		e.Sometimes(sawClaimantGone, h.Binaries(c.Conn, func(b *history.Conn) bool {
			return !b.UpgradedAt.After(c.UpgradedAt) && b.EndedAt.After(c.LeftAt) && b.LeftAt.After(c.LeftAt)
		}))
	}
	e.Sometimes(sawLastPong, c.diesAfterPong && c.Left && w.Latency() > 0 && h.Binaries(c.Conn, func(b *history.Conn) bool {
		return b.DialedAt.Step > c.LeftAt.Step && b.DialedAt.At == c.LeftAt.At
	}))
	shutDown := func(b *history.Conn) bool {
		return !b.UpgradedAt.After(d.Drained) && b.Closed && b.Reason == "shutting down"
	}
	if shutDown(c.Conn) {
		e.Sometimes(sawDrainRivals, h.Binaries(c.Conn, shutDown))
	}
	e.Sometimes(sawSpreadGone, d.Spread.Step > 0 && c.Left && (!c.Closed || c.ClosedAt.After(c.LeftAt)) && c.LeftAt.At > d.Spread.At && c.LeftAt.At < d.CloseBy)
	for _, l := range c.Flows {
		e.Sometimes(sawNotice, l.Notices > 0)
		e.Sometimes(sawNoticeCode, l.Notices > 0 && l.Notice != 1001)
	}
}

func (w *Instance) coverPhone(c *Client) {
	e := w.Engine
	e.Sometimes(sawSpreadPhone, c.Code == 1012 && c.WroteClose > w.drain0().Spread.At)
	e.Sometimes(sawRestartPhones, c.Faults&WasCut != 0 && c.flow(0).sent > 1)
	if b, o := w.hist.Ordered(c.Conn); b != nil && c.Closed && c.Reason == "" {
		e.Sometimes(sawIllegalDirective, !history.Legal(o.Code) && c.Code == 1011)
		for _, s := range c.Stalls {
			e.Sometimes(sawDirectiveBehind, o.At.After(s.From) && s.To.After(o.At) && o.Frames > 2)
		}
	}
}

// coverParked looks for phones with unread bytes: the relay has parked them.
// Call it only while no task runs.
//
//go:norace
func (w *Instance) coverParked() {
	for n := 1; n <= w.Nclients; n++ {
		c := w.Clients[n].Load()
		if c == nil || !c.Phone {
			continue
		}
		switch {
		case c.Sock.up.Unread():
			if !c.parked {
				c.parked = true
				w.Engine.Sometimes(sawParked, w.current.Shown.InGrace == 0)
				w.Engine.Sometimes(sawParkedGrace, w.current.Shown.InGrace > 0)
			}
		case c.parked:
			c.parked = false
			w.Engine.Sometimes(sawUnparked, !c.Ended)
		}
	}
}
