package history

import (
	"strings"
	"testing"
)

// script is a history that a test writes line by line. Each line is one event, a
// millisecond after the one before.
type script struct {
	Recorder
	ms int64
}

func (s *script) add(events ...Event) *script {
	for _, e := range events {
		s.ms++
		s.Add(s.ms*1e6, e)
	}
	return s
}

// begin is a process, and connections of the given kinds that are upgraded: b of a binary, p of
// a phone. Each has its own address.
func begin(kinds string) *script {
	s := new(script)
	s.add(Event{Kind: NodeUp, Node: 1}, Event{Kind: LimitsBegan, Node: 1, Data: &Limits{
		Phones: 2, Conns: 10, PerAddress: 10, Burst: 10, PhoneOutbox: 4 << 10, Grace: 30e9,
	}})
	for i, kind := range kinds {
		s.add(dialled(i+1, kind == 'p'), Event{Kind: Upgraded, Conn: i + 1}, Event{Kind: Answered, Conn: i + 1})
	}
	return s
}

func dialled(conn int, phone bool) Event {
	name := string(rune('a' + conn))
	return Event{Kind: Dialled, Node: 1, Conn: conn, Data: &Dial{Phone: phone, Server: "s1", Name: name, Address: name}}
}

// frame is a phone's frame n that its binary receives, and the events of the phone.
func frame(phone, binary, n int) []Event {
	return []Event{
		{Kind: Sent, Conn: phone, Size: 10}, {Kind: Message, Conn: phone},
		{Kind: Received, Conn: binary, Peer: phone, To: phone, N: n, Size: 40},
	}
}

func closed(conn, code int, reason string) []Event {
	return []Event{
		{Kind: WroteClose, Conn: conn, N: code}, {Kind: Closed, Conn: conn, N: code, Text: reason},
		{Kind: Ended, Conn: conn}, {Kind: SocketClosed, Conn: conn},
	}
}

func (s *script) check() []Violation {
	return Check(Read(s.Events(), Settings{
		Exact: true, Latency: 1e6, Room: 1 << 10, Probe: 3e9, Write: 10e9, Message: 30e9, Linger: 2e9,
	}))
}

// want checks that the history breaks one invariant first, or none if it is empty.
func (s *script) want(t *testing.T, invariant string) {
	t.Helper()
	all := s.check()
	switch {
	case invariant == "" && len(all) > 0:
		t.Errorf("broken: %v; want nothing", all)
	case invariant != "" && (len(all) == 0 || all[0].Invariant != invariant):
		t.Errorf("broken: %v; want %s", all, invariant)
	}
}

func TestFrames(t *testing.T) {
	for name, c := range map[string]struct {
		events    []Event
		invariant string
	}{
		"two frames in order":     {append(frame(2, 1, 1), frame(2, 1, 2)...), ""},
		"a frame is lost":         {append(frame(2, 1, 1), frame(2, 1, 3)...), "order"},
		"a frame is repeated":     {append(frame(2, 1, 1), frame(2, 1, 1)...), "order"},
		"a changed frame":         {[]Event{{Kind: Garbled, Conn: 1, Text: "unchanged"}}, "unchanged"},
		"of another connection":   {[]Event{{Kind: Received, Conn: 1, Peer: 2, To: 3, N: 1}}, "misrouted"},
		"to a phone of another":   {[]Event{{Kind: Received, Conn: 2, Peer: 1, To: 3, N: 1}}, "misrouted"},
		"more than were sent":     {[]Event{{Kind: Received, Conn: 1, Peer: 2, To: 2, N: 1}}, "order"},
		"a frame after a notice":  {append([]Event{{Kind: Noticed, Conn: 1, Peer: 2, N: 1001}}, frame(2, 1, 1)...), "after notice"},
		"two notices":             {append(frame(2, 1, 1), Event{Kind: Noticed, Conn: 1, Peer: 2, N: 1001}, Event{Kind: Noticed, Conn: 1, Peer: 2, N: 1001}), "after notice"},
		"a notice with no reason": {append(frame(2, 1, 1), Event{Kind: Noticed, Conn: 1, Peer: 2, N: 4401}), "notice"},
		"a frame after the close": {append(closed(1, 1001, "x"), frame(2, 1, 1)...), "after close"},
	} {
		t.Run(name, func(t *testing.T) { begin("bpp").add(c.events...).want(t, c.invariant) })
	}
}

func TestCloses(t *testing.T) {
	fault := func(conn int, f Fault) Event { return Event{Kind: FaultBegan, Conn: conn, N: int(f)} }
	drain := Event{Kind: DrainBegan, Node: 1}
	done := Event{Kind: DrainDone, Node: 1}
	for name, c := range map[string]struct {
		events    []Event
		invariant string
	}{
		"a close without a reason":              {closed(2, 1013, "why not"), "close code"},
		"no server, and a binary is served":     {append(append(frame(3, 1, 1), dialled(4, true), Event{Kind: Upgraded, Conn: 4}), closed(4, 4404, reasonNoServer)...), "joined"},
		"too many phones, and one was there":    {closed(2, 4429, reasonFull), "joined"},
		"heartbeat of a peer that answered":     {append([]Event{{Kind: Pinged, Conn: 2, N: 1}, {Kind: Ponged, Conn: 2, N: 1}}, closed(2, 1011, reasonHeartbeat)...), "displaced"},
		"a message too big":                     {append([]Event{fault(2, DidBig)}, closed(2, 1009, "too big")...), ""},
		"too big, and it was not":               {closed(2, 1009, "too big"), "close code"},
		"the peer's own code":                   {append([]Event{{Kind: CloseSent, Conn: 2, N: 4000}}, closed(2, 4000, "")...), ""},
		"in use, and no binary answered":        {closed(1, 4409, reasonInUse), "spurious 4409"},
		"kicked, and no operator did":           {closed(2, 1001, reasonOperator), "disconnect"},
		"short of memory, and ShedLoad not run": {closed(2, 1011, "relay is short of memory"), "relief"},
		"shutting down, and no drain":           {closed(2, 1001, reasonShutdown), "drain"},
		"two closes":                            {append([]Event{fault(2, DidBig)}, append(closed(2, 1009, "x"), Event{Kind: WroteClose, Conn: 2, N: 1009})...), "one close"},
		"a socket that lingers too long":        {[]Event{fault(2, DidBig), {Kind: WroteClose, Conn: 2, N: 1009}, {Kind: Closed, Conn: 2, N: 1009, Text: "x"}}, "in time"},
		"the end without a close":               {[]Event{{Kind: Ended, Conn: 2}, {Kind: SocketClosed, Conn: 2}}, "goodbye"},
		"a drain that reports nothing":          {append([]Event{drain}, append(append(closed(1, 1001, reasonShutdown), closed(2, 1001, reasonShutdown)...), closed(3, 1001, reasonShutdown)...)...), "drain"},
		"a drain that reports too early":        {append([]Event{drain, done}, closed(1, 1001, reasonShutdown)...), "drain"},
	} {
		t.Run(name, func(t *testing.T) {
			s := begin("bpp").add(c.events...)
			if c.invariant == "in time" {
				s.ms += 5000
				s.add(Event{Kind: SocketClosed, Conn: 2})
			}
			s.wantSome(t, c.invariant)
		})
	}
}

// wantSome is want for a history in which more than one invariant is broken.
func (s *script) wantSome(t *testing.T, invariant string) {
	t.Helper()
	all := s.check()
	if invariant == "" {
		for _, v := range all {
			if strings.Contains(v.Detail, "closed with") {
				t.Errorf("broken: %v; want nothing", v)
			}
		}
		return
	}
	for _, v := range all {
		if v.Invariant == invariant {
			return
		}
	}
	t.Errorf("broken: %v; want %s", all, invariant)
}

func TestGates(t *testing.T) {
	answer := func(status int, retry string) Event {
		return Event{Kind: Answered, Conn: 2, N: status, Text: retry}
	}
	for name, c := range map[string]struct {
		invalid   int
		answer    Event
		invariant string
	}{
		"a good request is refused":      {0, answer(400, ""), "gates"},
		"a bad one is refused":           {400, answer(400, ""), ""},
		"a bad one is upgraded":          {400, Event{Kind: Upgraded, Conn: 2}, "gates"},
		"full, and it is not":            {0, answer(503, "5"), "gates"},
		"over the rate, and it is not":   {0, answer(429, "5"), "gates"},
		"a page's request gets its code": {403, answer(403, ""), ""},
		"a status of no gate":            {0, answer(500, ""), "gates"},
	} {
		t.Run(name, func(t *testing.T) {
			d := dialled(2, true)
			d.Data.(*Dial).Invalid = c.invalid
			s := begin("b").add(d, c.answer)
			if c.answer.Kind == Upgraded {
				s.add(Event{Kind: Answered, Conn: 2})
			}
			s.want(t, c.invariant)
		})
	}
}

func TestBans(t *testing.T) {
	ban := &Request{Server: "s1", Ban: true, Until: 1e12}
	s := begin("b")
	s.add(Event{Kind: RequestBegan, Node: 1, Data: ban}, Event{Kind: RequestEnded, Node: 1, N: 1, Data: ban})
	s.add(closed(1, 1001, reasonOperator)...)
	s.want(t, "")
	s.add(dialled(2, true), Event{Kind: Upgraded, Conn: 2})
	s.want(t, "ban")
}

func TestTheSlotHasOneHolder(t *testing.T) {
	s := begin("bp").add(frame(2, 1, 1)...)
	s.add(dialled(3, true), Event{Kind: Upgraded, Conn: 3}).add(closed(3, 4404, reasonNoServer)...)
	s.add(dialled(4, true), Event{Kind: Upgraded, Conn: 4}).add(frame(4, 1, 1)...)
	s.wantSome(t, "linearizable")
}

// atRestMetrics are the metrics of a process that had so many requests, all accepted, of peers that
// have closed their connections with 4000.
func atRestMetrics(binaries, phones int) Metrics {
	m := Metrics{}
	for _, o := range []string{"accept", "reject_404", "reject_409"} {
		m[prefix+"ws_upgrade_attempts_total server "+o], m[prefix+"ws_upgrade_attempts_total client "+o] = 0, 0
	}
	m[prefix+"ws_upgrade_attempts_total server accept"] = float64(binaries)
	m[prefix+"ws_upgrade_attempts_total client accept"] = float64(phones)
	for _, code := range []string{"1001", "other"} {
		m[prefix+"close_frames_total "+code+" relay"], m[prefix+"close_frames_total "+code+" peer"] = 0, 0
	}
	m[prefix+"close_frames_total other relay"], m[prefix+"close_frames_total other peer"] = float64(binaries+phones), float64(binaries+phones)
	return m
}

func TestEveryMetricIsCompared(t *testing.T) {
	for series, by := range map[string]float64{
		"": 0,
		"ws_upgrade_attempts_total server accept":        1,
		"register_failures_total no_server":              1,
		"close_frames_total 1001 relay":                  3,
		"close_frames_total other peer":                  1,
		"frames_forwarded_total phone_to_binary":         1,
		"frame_bytes_total binary_to_phone":              1,
		"forward_duration_seconds phone_to_binary count": 1,
		"dropped_frames_total unknown_phone":             1,
		"takeovers_total":                                1,
		"reclaims_total":                                 1,
		"claim_conflicts_total":                          1,
		"heartbeat_timeouts_total":                       3,
		"grace_expiries_total":                           1,
		"grace_expiry_closes_total":                      1,
		"memory_closes_total":                            1,
		"operator_closes_total":                          1,
		"bans":                                           1,
		"log_records_suppressed_total frame":             1,
		"connections":                                    1,
		"outbox_bytes phone":                             1,
		"parked_phones":                                  1,
		"waiting_claims":                                 1,
		"connected_binaries":                             1,
		"connected_phones":                               1,
		"binaries_in_grace":                              1,
		"remote_phones":                                  1,
	} {
		t.Run(series, func(t *testing.T) {
			m := atRestMetrics(1, 1)
			if series != "" {
				m[prefix+series] += by
			}
			s := begin("bp")
			for conn := range 2 {
				s.add(Event{Kind: CloseSent, Conn: conn + 1, N: 4000}).add(closed(conn+1, 4000, "")...)
			}
			r := Read(s.add(Event{Kind: Scraped, Node: 1, Data: m}).Events(), Settings{Exact: true, Room: 1})
			r.checkMetrics()
			if wrong := len(r.violations) > 0; wrong != (by > 0) {
				t.Errorf("broken: %v", r.violations)
			}
		})
	}
}

func TestSamples(t *testing.T) {
	for name, c := range map[string]struct {
		gauges Gauges
		wrong  bool
	}{
		"as the sockets show":  {Gauges{Connections: 2}, false},
		"a connection too few": {Gauges{Connections: 1}, true},
		"a parked phone":       {Gauges{Connections: 2, Parked: 1}, true},
		"a waiting claim":      {Gauges{Connections: 2, Waiting: 1}, true},
		"bytes for a phone":    {Gauges{Connections: 2, PhoneOutboxes: 1}, true},
	} {
		t.Run(name, func(t *testing.T) {
			r := Read(begin("bp").add(Event{Kind: Sampled, Node: 1, Data: &Sample{Binaries: 1, Gauges: c.gauges}}).Events(), Settings{Exact: true, Room: 1})
			if wrong := len(r.sampled) > 0; wrong != c.wrong {
				t.Errorf("broken: %v; want wrong=%t", r.sampled, c.wrong)
			}
		})
	}
}

func TestBooks(t *testing.T) {
	s := begin("bp").add(Event{Kind: FaultBegan, Conn: 1, N: int(DidHangUp)}, Event{Kind: Message, Conn: 2, To: 9}, Event{Kind: BytesRead, Conn: 2, N: 9}, Event{Kind: Settled, Conn: 2})
	for counted, wrong := range []bool{true, false, true} {
		r := Read(append(s.Events(), Event{Stamp: Stamp{Step: 99}, Kind: Sampled, Node: 1, Data: &Sample{Counted: counted, Binaries: 1, Gauges: Gauges{Connections: 2}}}), Settings{})
		if got := len(r.sampled) > 0; got != wrong {
			t.Errorf("%d counted: broken: %v; want wrong=%t", counted, r.sampled, wrong)
		}
	}
}

func TestWakes(t *testing.T) {
	asked := Event{Kind: Asked, Conn: 1}
	pushed := func(n int, server string) Event {
		return Event{Kind: Pushed, Node: 1, Conn: 1, N: n, Text: server}
	}
	for name, c := range map[string]struct {
		events []Event
		wrong  bool
	}{
		"in order":                 {[]Event{asked, pushed(-1, "s1"), asked, pushed(2, "s1")}, false},
		"repeated":                 {[]Event{asked, pushed(1, "s1"), pushed(1, "s1")}, true},
		"for another server-id":    {[]Event{asked, pushed(1, "s2")}, true},
		"that no binary asked for": {[]Event{pushed(1, "s1")}, true},
		"that is no wake, in fact": {[]Event{{Kind: Pushed, Node: 1}}, true},
	} {
		t.Run(name, func(t *testing.T) {
			r := Read(begin("b").add(c.events...).Events(), Settings{})
			r.checkWakes()
			if wrong := len(r.violations) > 0; wrong != c.wrong {
				t.Errorf("broken: %v; want wrong=%t", r.violations, c.wrong)
			}
		})
	}
}

func TestTwoBinariesThatServeAtTheSameTime(t *testing.T) {
	s := begin("bbpp").add(frame(3, 1, 1)...).add(frame(4, 2, 1)...)
	r := Read(s.Events(), Settings{Room: 1})
	if r.CheckOverlaps(); len(r.violations) > 0 {
		t.Errorf("one after the other: broken: %v", r.violations)
	}
	r = Read(s.add(frame(3, 1, 2)...).Events(), Settings{Room: 1})
	if r.CheckOverlaps(); len(r.violations) != 1 {
		t.Errorf("and back again: broken: %v; want one serving", r.violations)
	}
}

func TestA4409OfRealProcessesNeedsAnotherBinary(t *testing.T) {
	for name, c := range map[string]struct {
		dialled, ended int64 // of the refused claim; the other binary is there from 10 s to 20 s
		allowed        bool
	}{
		"while it held":      {12, 13, true},
		"just after it left": {21, 22, true},
		"long after":         {30, 31, false},
		"before it came":     {5, 6, false},
	} {
		t.Run(name, func(t *testing.T) {
			var log Recorder
			for conn, at := range [][2]int64{{10, 20}, {c.dialled, c.ended}} {
				log.Add(at[0]*1e9, dialled(conn+1, false))
				log.Add(at[0]*1e9, Event{Kind: Upgraded, Conn: conn + 1})
				log.Add(at[1]*1e9, Event{Kind: Ended, Conn: conn + 1})
			}
			log.Add(c.ended*1e9, Event{Kind: Closed, Conn: 2, N: 4409, Text: reasonInUse})
			r := Read(log.Events(), Settings{Shared: true})
			if got := HeldMeanwhile(2e9)(r, r.Conns[2]); got != c.allowed {
				t.Errorf("allowed %t; want %t", got, c.allowed)
			}
		})
	}
}
