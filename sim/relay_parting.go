package sim

// parting judges what a drain did to c: a phone is told together with its
// binary, and no claimant that it is refused for good. That everyone is told
// in time is the farewell's matter.
func (w *relayRun) parting(c *client) {
	if !w.calm || w.drained.step == 0 || w.aborted || c.node != w.cur {
		return
	}
	told := c.sock.tap.closed
	if c.code == 4409 && c.reason != "" && told > w.drained.at {
		w.blame("drain", c, "told 4409 by a relay that drains")
	}
	if !c.phone || !c.blameless() || told <= w.drained.at {
		return
	}
	for _, b := range w.all() {
		served := b.num == c.flow(0).from || b.flows[c.num] != nil && len(b.flows[c.num].got) > 0
		if b.phone || !served || !b.blameless() || b.code != 1012 {
			continue
		}
		apart := told - b.sock.tap.closed
		if apart > slack+w.latency() || apart >= 0 && c.code != 1012 {
			w.blame("together", c, "closed with %d, %d ms after %s", c.code, apart/1e6, b.name)
		}
	}
}

// blameless tells whether only the relay can have ended c, and at once.
func (c *client) blameless() bool { return c.closed && c.faults == 0 && !c.closeSent && !c.left }
