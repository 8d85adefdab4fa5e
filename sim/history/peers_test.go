package history

import (
	"fmt"
	"testing"
)

// envelope is an envelope with a conn-id made of n.
func envelope(n int, frame string) []byte {
	return fmt.Appendf(nil, `{"conn_id":"c-%016d","frame":%s}`, n, frame)
}

func TestPeersFindTheFramesThatAreWrong(t *testing.T) {
	for name, c := range map[string]struct {
		run       func(p *Peers, binary, phone, other *Peer)
		invariant string
	}{
		"an echo": {func(_ *Peers, b, p, _ *Peer) {
			p.Sends(0x81, []byte(`1`))
			b.Receives(1, envelope(1, `1`))
			b.Sends(0x81, envelope(1, `1`))
			p.Receives(1, []byte(`1`))
		}, ""},
		"two phones that send the same, one more than the other": {func(_ *Peers, b, p, o *Peer) {
			p.Sends(0x81, []byte(`1`))
			o.Sends(0x81, []byte(`1`))
			b.Receives(1, envelope(1, `1`))
			b.Receives(1, envelope(2, `1`))
			o.Sends(0x81, []byte(`2`))
			b.Receives(1, envelope(1, `2`))
			b.Sends(0x81, envelope(2, `3`))
			p.Receives(1, []byte(`3`))
		}, ""},
		"a frame that no phone sent": {func(_ *Peers, b, _, _ *Peer) { b.Receives(1, envelope(1, `1`)) }, "order"},
		"a frame before it is sent": {func(_ *Peers, b, p, _ *Peer) {
			b.Receives(1, envelope(1, `1`))
			p.Sends(0x81, []byte(`1`))
		}, "order"},
		"a frame is lost": {func(_ *Peers, b, p, _ *Peer) {
			p.Sends(0x81, []byte(`1`))
			p.Sends(0x81, []byte(`2`))
			p.Sends(0x81, []byte(`3`))
			b.Receives(1, envelope(1, `1`))
			b.Receives(1, envelope(1, `3`))
		}, "order"},
		"one phone's frames under two conn-ids": {func(_ *Peers, b, p, _ *Peer) {
			p.Sends(0x81, []byte(`1`))
			b.Receives(1, envelope(1, `1`))
			b.Receives(1, envelope(2, `1`))
		}, "order"},
		"an answer for the other phone": {func(_ *Peers, b, p, o *Peer) {
			p.Sends(0x81, []byte(`1`))
			o.Sends(0x81, []byte(`2`))
			b.Receives(1, envelope(1, `1`))
			b.Receives(1, envelope(2, `2`))
			b.Sends(0x81, envelope(1, `3`))
			o.Receives(1, []byte(`3`))
		}, "order"},
		"an answer that a stranger may have caused": {func(l *Peers, b, p, _ *Peer) {
			l.Strangers()
			b.Receives(1, envelope(1, `1`))
			p.Receives(1, []byte(`3`))
		}, ""},
		"a frame after the notice": {func(_ *Peers, b, p, _ *Peer) {
			p.Sends(0x81, []byte(`1`))
			p.Sends(0x81, []byte(`2`))
			b.Receives(1, envelope(1, `1`))
			b.Receives(1, []byte(`{"conn_id":"c-0000000000000001","close_code":1001}`))
			b.Receives(1, envelope(1, `2`))
		}, "after notice"},
		"a notice with the wrong code": {func(_ *Peers, b, p, _ *Peer) {
			p.Sends(0x81, []byte(`1`))
			b.Receives(1, envelope(1, `1`))
			b.Receives(1, []byte(`{"conn_id":"c-0000000000000001","close_code":4000}`))
		}, "notice"},
		"a close that the binary asked for": {func(_ *Peers, b, p, _ *Peer) {
			p.Sends(0x81, []byte(`1`))
			b.Receives(1, envelope(1, `1`))
			b.Sends(0x81, []byte(`{"conn_id":"c-0000000000000001","frame":null,"close_code":4401}`))
			p.Receives(8, []byte("\x11\x31"))
		}, ""},
		"a close that nothing explains": {func(_ *Peers, _, p, _ *Peer) { p.Receives(8, []byte("\x11\x31")) }, "close code"},
		"no server, and the binary serves before and after": {func(_ *Peers, b, p, o *Peer) {
			p.Sends(0x81, []byte(`1`))
			b.Receives(1, envelope(1, `1`))
			q := o.of.Dial(1, Dial{Phone: true, Server: "s1", Name: "q"})
			q.Answered(101, "")
			q.Receives(8, []byte("\x11\x34"+reasonNoServer))
			p.Sends(0x81, []byte(`2`))
			b.Receives(1, envelope(1, `2`))
		}, "joined"},
		"fewer frames counted than seen": {func(l *Peers, b, p, _ *Peer) {
			p.Sends(0x81, []byte(`1`))
			b.Receives(1, envelope(1, `1`))
			l.Add(Event{Kind: Scraped, Node: 1, Data: ParseMetrics("# HELP x\n" + prefix + `ws_upgrade_attempts_total{endpoint="server",outcome="accept"} 1` + "\n" +
				prefix + `ws_upgrade_attempts_total{endpoint="client",outcome="accept"} 2` + "\n" + prefix + `frames_forwarded_total{direction="phone_to_binary"} 0` + "\n")})
		}, "metrics"},
	} {
		t.Run(name, func(t *testing.T) {
			l := NewPeers()
			l.Add(Event{Kind: LimitsBegan, Node: 1, Data: &Limits{Phones: 16, PhoneOutbox: 1 << 20}})
			var all []*Peer
			for i, name := range []string{"b", "p", "o"} {
				o := l.Dial(1, Dial{Phone: i > 0, Server: "s1", Name: name})
				o.Answered(101, "")
				all = append(all, o)
			}
			c.run(l, all[0], all[1], all[2])
			wrong := CheckPeers(l.Read(Settings{Room: 1}))
			if c.invariant == "" && len(wrong) > 0 || c.invariant != "" && (len(wrong) == 0 || wrong[0].Invariant != c.invariant) {
				t.Errorf("broken: %v; want %q", wrong, c.invariant)
			}
		})
	}
}

// Clients of real processes dial concurrently, so the dial with the lower number may be
// recorded after another client has sent frames.
func TestPeersMayBeRecordedInAnotherOrderThanThatOfTheirNumbers(t *testing.T) {
	l := NewPeers()
	l.Add(Event{Kind: LimitsBegan, Node: 1, Data: &Limits{Phones: 16, PhoneOutbox: 1 << 20}})
	late := l.Conn()
	b := l.Dial(1, Dial{Server: "s1", Name: "b"})
	b.Answered(101, "")
	p := l.Dial(1, Dial{Phone: true, Server: "s1", Name: "p"})
	p.Answered(101, "")
	p.Sends(0x81, []byte(`1`))
	b.Receives(1, envelope(1, `1`))
	l.Add(Event{Kind: Dialled, Node: 1, Conn: late, Data: &Dial{Phone: true, Server: "s1", Name: "o"}})
	if wrong := CheckPeers(l.Read(Settings{Room: 1})); len(wrong) > 0 {
		t.Errorf("broken: %v", wrong)
	}
}
