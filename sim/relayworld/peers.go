package relayworld

import (
	"github.com/pyrycode/pyrycode-relay/sim/engine"
)

// The checks of phones and binaries on received frames. Each returns the
// invariant that is broken, if any, and a description.

// phoneReceives handles a frame without an envelope.
func (c *Client) phoneReceives(payload []byte) (wrong, how string) {
	f, ok := parseFrame(payload)
	if !ok {
		return "unchanged", "not as the binary sent it"
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.Flow(0)
	switch b, known := c.w.connInfo(f.binary); {
	case f.phone != c.Number:
		return "misrouted", "a frame for another phone"
	case !known || b.phone || b.server != c.Server || c.w.separateProcesses(b.node, c.Node):
		return "misrouted", "a frame from a binary of another server-id"
	case l.From != 0 && l.From != f.binary:
		return "one binary", "frames from two binaries"
	case f.n != len(l.Got)+1:
		return "order", "a frame is lost, repeated or out of order"
	}
	l.From = f.binary
	l.Got = append(l.Got, c.w.Engine.Stamp())
	c.receivedBytes += len(payload)
	c.w.Engine.Note(uint64(f.n)<<32 | uint64(c.Number))
	return "", ""
}

// binaryReceives handles an envelope.
func (c *Client) binaryReceives(payload []byte) (wrong, how string) {
	id, inner, code, ok := takeEnvelope(payload)
	if !ok {
		return "envelope", "not an envelope as the contract has it"
	}
	phone := c.w.owner(id)
	if p, ok := c.w.connInfo(phone); !ok || p.server != c.Server || c.w.separateProcesses(p.node, c.Node) {
		return "misrouted", "a conn-id of another server-id, or an unknown one"
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.Flow(phone)
	if l.noticeReceived {
		return "after notice", "something after the close notice"
	}
	c.receivedBytes += len(payload)
	if inner == nil {
		l.noticeReceived, l.notice, l.toldAt = true, code, c.w.Engine.Stamp()
		l.notices++
		if c.answersNotices && c.sendCounts() { // as the deployed daemon does
			c.sendMessage(c.rnd, appendEnvelope(nil, phone, nil, 1000), 1)
		}
		return "", ""
	}
	f, ok := parseFrame(inner)
	switch {
	case !ok:
		return "unchanged", "not as the phone sent it"
	case f.phone != phone || f.binary != 0:
		return "misrouted", "a frame under another phone's conn-id"
	case f.n != len(l.Got)+1:
		return "order", "a frame is lost, repeated or out of order"
	}
	if len(l.Got) == 0 {
		c.known = append(c.known, phone)
		l.since = c.w.Engine.Stamp()
	}
	l.Got = append(l.Got, c.w.Engine.Stamp())
	c.w.Engine.Note(uint64(f.n)<<32 | uint64(c.Number))
	if f.echo && c.sendCounts() {
		c.sendToPhone(c.rnd, phone, max(len(inner)-100, 0), 1)
	}
	return "", ""
}

// sendToPhone sends a binary's next frame to a phone. The mutex is held.
func (c *Client) sendToPhone(r *engine.Rand, phone, pad, pieces int) {
	c.sendMessage(r, appendEnvelope(nil, phone, c.nextFrame(phone, pad), 0), pieces)
}

// nextFrame makes the next frame to a phone, and counts it as sent.
func (c *Client) nextFrame(phone, pad int) []byte {
	l := c.Flow(phone)
	inner := frame{binary: c.Number, phone: phone, n: len(l.Sent) + 1}.append(nil, pad)
	l.Sent = append(l.Sent, Sent{c.w.Engine.Stamp(), len(inner)})
	return inner
}

// SendToBinary sends a phone's next frame. The mutex is held.
func (c *Client) SendToBinary(r *engine.Rand, pad, pieces int, echo bool) {
	l := c.Flow(0)
	inner := frame{phone: c.Number, n: len(l.Sent) + 1, echo: echo}.append(nil, pad)
	l.Sent = append(l.Sent, Sent{c.w.Engine.Stamp(), len(inner)})
	c.sendMessage(r, inner, pieces)
}
