package relayworld

import (
	"time"

	"github.com/pyrycode/pyrycode-relay/sim/engine"
)

// JudgeFlows checks the frames between a phone and its binary.
func (w *Instance) JudgeFlows(p *Client) {
	var served *Client
	for _, b := range w.All() {
		l := b.Flows[p.Number]
		if b.Phone || l == nil {
			continue
		}
		if len(l.Got) > 0 {
			if served != nil {
				w.Blame("one binary", p, "its frames came to %s and to %s", served.Name, b.Name)
			}
			served = b
		}
	}
	for _, b := range w.All() {
		if l := b.Flows[p.Number]; !b.Phone && l != nil && l.notices > 0 {
			late := b.DialedAt.Step > p.ServedAt.Step && p.ServedAt.Step > 0
			if served != nil && served != b || late && w.Cluster == nil { // in a cluster another node may be asked late to let it in
				w.Blame("notice", p, "%s was told that it is gone, and never served it", b.Name)
			}
			w.judgeNotice(p, b, l)
		}
	}
	if served == nil {
		return
	}
	w.judgePhoneCap(p, served)
	if from := p.Flow(0).From; from != 0 && from != served.Number {
		w.Blame("one binary", p, "frames went to %s and came from another", served.Name)
	}
	up, down := served.Flows[p.Number], p.Flow(0)
	if len(up.Got) > len(down.Sent) || len(down.Got) > len(up.Sent) {
		w.Blame("order", p, "%d and %d frames came; %d and %d were sent", len(up.Got), len(down.Got), len(down.Sent), len(up.Sent))
	}
	if !w.exactTiming {
		return
	}
	w.judgeFrameDelays(p, served, up.Got, down.Sent)
	w.judgeFrameDelays(p, p, down.Got, up.Sent)
	w.judgeBacklog(p, down, up)
	closedByPhone := p.CloseSent && p.Closed && p.Code == p.CloseWith && p.Reason == "" && len(up.orders) == 0
	if closedByPhone && p.Faults == 0 && served.Faults == 0 && !served.CloseSent && served.ClosedAt.After(p.endedAt) && served.firstFrameAt().Step > 0 &&
		w.drained.After(p.endedAt) && len(up.Got) != len(down.Sent) && !w.aborted {
		w.Blame("loss", p, "it sent %d frames and a close; %d came to %s", len(down.Sent), len(up.Got), served.Name)
	}
}

// judgePhoneCap checks p's join against the limit of phones. It counts the phones
// that had joined before p and were still joined after it.
func (w *Instance) judgePhoneCap(p, mine *Client) {
	n := 0
	for _, o := range w.All() {
		l := mine.Flows[o.Number]
		if o == p || l == nil || len(l.Got) == 0 || l.since.After(p.DialedAt) {
			continue
		}
		if sent := o.Flow(0).Sent; sent[len(l.Got)-1].After(p.ServedAt) {
			n++
		}
	}
	if most := w.highest(p.Node, p.DialedAt, p.ServedAt, phonesOf); n >= most {
		w.Blame("joined", p, "it joined %d others; want %d in all at most", n, most)
	}
}

// judgeNotice checks the close notice that a binary got for a phone.
func (w *Instance) judgeNotice(p, b *Client, l *flow) {
	sent := 1001
	if p.CloseSent && p.CloseWith != 0 {
		sent = p.CloseWith
	}
	echoed := p.CloseSent && p.Closed && p.Code == p.CloseWith && p.Reason == "" && len(l.orders) == 0
	crossed := w.mayHaveDisconnected(p) // the notice can be older than its close
	if l.notice != sent && (echoed && p.Faults == 0 && !crossed || l.notice != 1001) {
		w.Blame("notice", p, "%s was told %d; want %d", b.Name, l.notice, sent)
	}
}

// MaxDelay returns how long a frame to c may take if c reads. It grows with the
// number of bytes, because bytes on their way fill the pipe.
func (w *Instance) MaxDelay(c *Client) int64 {
	return w.Latency() * int64(6+2*c.receivedBytes/max(w.Run.Param("room", 1<<14), 512))
}

// judgeFrameDelays checks how long frames took to a peer that read all the time.
func (w *Instance) judgeFrameDelays(p, to *Client, got []engine.Stamp, from []Sent) {
	if to.Faults&(DidStall|DidVanish) != 0 {
		return
	}
	most := w.MaxDelay(to)
	for i := range min(len(got), len(from)) {
		if d := got[i].At - from[i].At; d > most {
			w.Blame("progress", p, "frame %d took %d ms to %s, which reads; want %d at most", i+1, d/1e6, to.Name, most/1e6)
		}
	}
}

// judgeBacklog checks how many bytes were kept for a phone that did not read.
func (w *Instance) judgeBacklog(p *Client, down, up *flow) {
	for _, s := range p.stalls {
		kept, largest := 0, 0
		for i := range min(len(down.Got), len(up.Sent)) {
			if f := up.Sent[i]; s.To.Step > 0 && down.Got[i].At >= s.To.At && f.At >= s.From.At && f.At+3*w.Latency() < s.To.At {
				kept += f.Size + 64
				largest = max(largest, f.Size+64)
			}
		}
		room := 2*max(w.Run.Param("room", 1<<14), 512) + 2*largest // the pipe holds fewer bytes than the relay charges for them
		if most := w.highest(p.Node, p.DialedAt, p.ServedAt, budgetOf) + room; kept > most {
			w.Blame("budget", p, "%d bytes were kept for it; want %d at most", kept, most)
		}
	}
}

// slack is how late the relay's alarms may be.
const slack = 100 * int64(time.Millisecond)

// judgeTimeouts checks that the relay closed the connection in time.
func (w *Instance) judgeTimeouts(c *Client) {
	s := c.Sock
	if !w.exactTiming {
		return
	}
	if s.longestWrite > int64(writeTime)+slack {
		w.Blame("in time", c, "a write has waited %d ms", s.longestWrite/1e6)
	}
	if s.Tap.Closes > 0 && s.ClosedAt-s.Tap.Closed > int64(Linger)+slack {
		w.Blame("in time", c, "%d ms after its close message the socket was still open", (s.ClosedAt-s.Tap.Closed)/1e6)
	}
	// The relay reads no further than the first message of a claimant.
	served := len(c.known) > 0 && c.firstFrameAt().At <= c.dribbledAt
	if c.dribbled && served && c.Code == 1008 && s.Tap.Closed-c.dribbledAt > int64(messageTime)+slack+w.Latency() {
		w.Blame("in time", c, "the relay has waited %d ms for the rest of a message", (s.Tap.Closed-c.dribbledAt)/1e6)
	}
}

// backlogOverflowed reports whether at some time the bytes that the binary had
// sent and the phone had not received exceeded the budget.
func (w *Instance) backlogOverflowed(c *Client) bool {
	got, budget := c.Flow(0).Got, w.lowest(c.Node, c.DialedAt, c.ServedAt, budgetOf)
	return w.Binaries(c, func(b *Client) bool {
		l := b.Flows[c.Number]
		if l == nil {
			return false
		}
		for k := len(got); k < len(l.Sent); k++ {
			pending := 0
			for i := 0; i <= k; i++ {
				if i >= len(got) || got[i].At >= l.Sent[k].At {
					pending += l.Sent[i].Size + 64
				}
			}
			if pending > budget {
				return true
			}
		}
		return false
	})
}

// binaryStuck reports whether a binary of this server-id did not read all the
// time.
func (w *Instance) binaryStuck(c *Client) bool {
	return w.Binaries(c, func(b *Client) bool { return b.Faults&(DidStall|DidVanish) != 0 && b.firstFaultAt <= c.ClosedAt.At })
}

// A Fault is an action of a peer or the network that excuses some behaviour of
// the relay.
type Fault uint16

const (
	DidStall Fault = 1 << iota
	didIgnorePings
	DidVanish
	didHangUp
	DidBreak
	DidBad
	DidBig
	DidDribble
	wasReset
	WasCut
)

type Span struct{ From, To engine.Stamp }

// A flow is the frames between one phone and one binary, as one of them
// sees it.
type flow struct {
	Sent           []Sent
	Got            []engine.Stamp // when
	From           int            // of a phone: its binary
	since          engine.Stamp   // when its first frame arrived
	orders         []order
	notices        int
	notice         int
	noticeReceived bool // the close notice has arrived
	toldAt         engine.Stamp
}

type Sent struct {
	engine.Stamp
	Size int
}

// order is a close directive: after so many frames, with that code.
type order struct {
	frames int
	code   int
	at     engine.Stamp
}
