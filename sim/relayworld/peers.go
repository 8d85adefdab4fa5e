package relayworld

import (
	"github.com/pyrycode/pyrycode-relay/sim/engine"
	"github.com/pyrycode/pyrycode-relay/sim/history"
)

// phoneReceives handles a frame without an envelope.
func (c *Client) phoneReceives(payload []byte) {
	f, ok := parseFrame(payload)
	if !ok {
		c.garbled("unchanged", "not as the binary sent it")
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.flow(0).got++
	c.record(history.Event{Kind: history.Received, Peer: f.binary, To: f.phone, N: f.n, Size: len(payload)})
	c.w.Engine.Note(uint64(f.n)<<32 | uint64(c.Number))
}

// binaryReceives handles an envelope.
func (c *Client) binaryReceives(payload []byte) {
	id, inner, code, ok := takeEnvelope(payload)
	if !ok {
		c.garbled("envelope", "not an envelope as the contract has it")
		return
	}
	phone := c.w.owner(id)
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.flow(phone)
	if inner == nil {
		l.gone = true
		l.notices++
		c.record(history.Event{Kind: history.Noticed, Peer: phone, N: code, Size: len(payload)})
		if c.answersNotices && c.sendCounts() { // as the deployed daemon does
			c.sendMessage(c.rnd, appendEnvelope(nil, phone, nil, 1000), 1)
		}
		return
	}
	f, ok := parseFrame(inner)
	if !ok {
		c.garbled("unchanged", "not as the phone sent it")
		return
	}
	if l.got++; l.got == 1 {
		c.known = append(c.known, phone)
	}
	to := f.phone
	if f.binary != 0 {
		to = 0 // a binary's frame
	}
	c.record(history.Event{Kind: history.Received, Peer: phone, To: to, N: f.n, Size: len(payload)})
	c.w.Engine.Note(uint64(f.n)<<32 | uint64(c.Number))
	if f.echo && c.sendCounts() {
		c.sendToPhone(c.rnd, phone, max(len(inner)-100, 0), 1)
	}
}

// sendToPhone sends a binary's next frame to a phone. The mutex is held.
func (c *Client) sendToPhone(r *engine.Rand, phone, pad, pieces int) {
	c.sendMessage(r, appendEnvelope(nil, phone, c.nextFrame(phone, pad), 0), pieces)
}

// nextFrame makes the next frame to a phone, and counts it as sent.
func (c *Client) nextFrame(phone, pad int) []byte {
	l := c.flow(phone)
	l.sent++
	inner := frame{binary: c.Number, phone: phone, n: l.sent}.append(nil, pad)
	c.record(history.Event{Kind: history.Sent, Peer: phone, Size: len(inner)})
	return inner
}

// SendToBinary sends a phone's next frame. The mutex is held.
func (c *Client) SendToBinary(r *engine.Rand, pad, pieces int, echo bool) {
	l := c.flow(0)
	l.sent++
	inner := frame{phone: c.Number, n: l.sent, echo: echo}.append(nil, pad)
	c.record(history.Event{Kind: history.Sent, Size: len(inner)})
	c.sendMessage(r, inner, pieces)
}
