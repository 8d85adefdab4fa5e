package sim

// The checks of phones and binaries on received frames. Each returns the
// invariant that is broken, if any, and a description.

// phoneReceives handles a frame without an envelope.
func (c *client) phoneReceives(payload []byte) (wrong, how string) {
	f, ok := parseFrame(payload)
	if !ok {
		return "unchanged", "not as the binary sent it"
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.flow(0)
	switch b, known := c.w.connInfo(f.binary); {
	case f.phone != c.num:
		return "misrouted", "a frame for another phone"
	case !known || b.phone || b.server != c.server || c.w.separateProcesses(b.node, c.node):
		return "misrouted", "a frame from a binary of another server-id"
	case l.from != 0 && l.from != f.binary:
		return "one binary", "frames from two binaries"
	case f.n != len(l.got)+1:
		return "order", "a frame is lost, repeated or out of order"
	}
	l.from = f.binary
	l.got = append(l.got, c.w.stamp())
	c.receivedBytes += len(payload)
	c.w.e.Note(uint64(f.n)<<32 | uint64(c.num))
	return "", ""
}

// binaryReceives handles an envelope.
func (c *client) binaryReceives(payload []byte) (wrong, how string) {
	id, inner, code, ok := takeEnvelope(payload)
	if !ok {
		return "envelope", "not an envelope as the contract has it"
	}
	phone := c.w.owner(id)
	if p, ok := c.w.connInfo(phone); !ok || p.server != c.server || c.w.separateProcesses(p.node, c.node) {
		return "misrouted", "a conn-id of another server-id, or an unknown one"
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.flow(phone)
	if l.noticeReceived {
		return "after notice", "something after the close notice"
	}
	c.receivedBytes += len(payload)
	if inner == nil {
		l.noticeReceived, l.notice, l.toldAt = true, code, c.w.stamp()
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
	case f.n != len(l.got)+1:
		return "order", "a frame is lost, repeated or out of order"
	}
	if len(l.got) == 0 {
		c.known = append(c.known, phone)
		l.since = c.w.stamp()
	}
	l.got = append(l.got, c.w.stamp())
	c.w.e.Note(uint64(f.n)<<32 | uint64(c.num))
	if f.echo && c.sendCounts() {
		c.sendToPhone(c.rnd, phone, max(len(inner)-100, 0), 1)
	}
	return "", ""
}

// sendToPhone sends a binary's next frame to a phone. The mutex is held.
func (c *client) sendToPhone(r *Rand, phone, pad, pieces int) {
	c.sendMessage(r, appendEnvelope(nil, phone, c.nextFrame(phone, pad), 0), pieces)
}

// nextFrame makes the next frame to a phone, and counts it as sent.
func (c *client) nextFrame(phone, pad int) []byte {
	l := c.flow(phone)
	inner := frame{binary: c.num, phone: phone, n: len(l.sent) + 1}.append(nil, pad)
	l.sent = append(l.sent, sent{c.w.stamp(), len(inner)})
	return inner
}

// sendToBinary sends a phone's next frame. The mutex is held.
func (c *client) sendToBinary(r *Rand, pad, pieces int, echo bool) {
	l := c.flow(0)
	inner := frame{phone: c.num, n: len(l.sent) + 1, echo: echo}.append(nil, pad)
	l.sent = append(l.sent, sent{c.w.stamp(), len(inner)})
	c.sendMessage(r, inner, pieces)
}
