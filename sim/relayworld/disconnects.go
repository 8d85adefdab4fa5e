package relayworld

import (
	"net/netip"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/relay"
	"github.com/pyrycode/pyrycode-relay/internal/wire"
	"github.com/pyrycode/pyrycode-relay/sim/engine"
)

// Operators disconnect and ban clients at any moment.

// operatorReason is the reason of a close by an operator.
const operatorReason = "disconnected by the operator"

// disconnect is one request of an operator: a disconnect, or a ban.
type disconnect struct {
	node     *Node
	server   int    // of all clients with that server-id; -1: of no particular one
	user     string // of all clients of that actor, which stands for an address; empty: of no particular one
	phone    int    // of that phone; 0: of no particular one
	from, to engine.Stamp
	counted  int // connections that the relay reports as closed

	ban    bool
	until  int64        // the end of a ban
	lifted engine.Stamp // when the lifting of the ban began; zero: never
	over   engine.Stamp // when it had ended
}

// maxDisconnects is how many such requests one run may have.
const maxDisconnects = 32

// operatorDisconnects carries out one of the requests that operators make, by number.
func (w *Instance) operatorDisconnects(d *Node, verb, arg int) {
	if verb == VerbUnban {
		w.unban(d, arg)
		return
	}
	k := w.beginDisconnect(d, verb == VerbBan, arg)
	if k == nil {
		return
	}
	if verb == VerbKick {
		n := d.Relay.Disconnect(k.selector(), relay.ByOperator, relay.ByOperator, false)
		w.endDisconnect(k, n)
		return
	}
	applied, n, err := d.Relay.Ban(k.asBan(w))
	if err != nil || !applied {
		w.Engine.Fail("ban", "applied %t, %v", applied, err)
	}
	w.endDisconnect(k, n)
}

// selector returns the selector of a disconnect.
func (k *disconnect) selector() relay.Selector {
	switch {
	case k.phone > 0:
		return relay.Selector{Conn: wire.ConnID(appendConnID(nil, k.phone))}
	case k.server >= 0:
		return relay.Selector{Server: wire.ServerID(Servers[k.server])}
	}
	return k.key().Selector()
}

// key returns the key of a ban.
func (k *disconnect) key() relay.BanKey {
	if k.server >= 0 {
		return relay.ServerBan(wire.ServerID(Servers[k.server]))
	}
	a := addressOf(k.user)
	key, err := relay.NetworkBan(netip.PrefixFrom(a, a.BitLen()))
	if err != nil {
		panic(err)
	}
	return key
}

func (k *disconnect) asBan(w *Instance) relay.Ban {
	now := w.Engine.Time()
	return relay.Ban{Key: k.key(), Made: now, Until: now.Add(time.Duration(k.until - w.Engine.Now()))}
}

// beginDisconnect records that a request begins. It returns nil if there were too many,
// if there is nothing to select, or if the run heals.
//
//go:norace
func (w *Instance) beginDisconnect(d *Node, ban bool, arg int) *disconnect {
	if w.ndisconnects == maxDisconnects || w.Healing {
		return nil
	}
	k := disconnect{node: d, server: -1, ban: ban}
	switch arg % 4 {
	case 0, 1:
		k.server = arg / 4 % MaxServers
	case 2:
		if w.Nclients == 0 {
			return nil
		}
		c := w.Clients[max(1, w.Nclients-arg/4%3)].Load() // one of the newest, which may be connecting
		if c == nil {
			return nil
		}
		k.user = c.user.Name
	case 3:
		for n := 1; n <= w.Nclients && k.phone == 0; n++ {
			if c := w.Clients[(n+arg)%w.Nclients+1].Load(); c != nil && c.Phone && c.Node == d {
				k.phone = c.Number
			}
		}
		if ban || k.phone == 0 {
			return nil
		}
	}
	if ban {
		k.until = w.Engine.Now() + int64([...]time.Duration{time.Second, 5 * time.Second, 40 * time.Second}[arg/4%3])
		for i := range w.disconnects[:w.ndisconnects] {
			if o := &w.disconnects[i]; o.ban && o.node == d && o.server == k.server && o.user == k.user {
				return nil // one ban for each key, so that it is clear which one is in force
			}
		}
	}
	k.from = w.Engine.Stamp()
	w.disconnects[w.ndisconnects] = k
	w.ndisconnects++
	return &w.disconnects[w.ndisconnects-1]
}

//go:norace
func (w *Instance) endDisconnect(k *disconnect, n relay.Disconnected) {
	k.counted = n.Binaries + n.Phones
	k.to = w.Engine.Stamp()
	k.node.graceKicks += n.Graces
	w.Engine.Sometimes(sawKickedGrace, n.Graces > 0)
}

// unban lifts one of the bans of d.
func (w *Instance) unban(d *Node, n int) {
	k := w.beginUnban(d, n)
	if k == nil {
		return
	}
	b := k.asBan(w)
	b.Lifted = true
	if _, _, err := d.Relay.Ban(b); err != nil {
		w.Engine.Fail("ban", "a ban is not lifted: %v", err)
	}
	w.endUnban(k)
}

//go:norace
func (w *Instance) endUnban(k *disconnect) { k.over = w.Engine.Stamp() }

//go:norace
func (w *Instance) beginUnban(d *Node, n int) *disconnect {
	for i := range w.ndisconnects {
		k := &w.disconnects[(i+n)%w.ndisconnects]
		if k.ban && k.node == d && k.to.Step != 0 && k.lifted.Step == 0 && k.to.At < w.Engine.Now() && k.until > w.Engine.Now() {
			k.lifted = w.Engine.Stamp()
			return k
		}
	}
	return nil
}

// liftBans lifts all bans, for the end of a run.
func (w *Instance) liftBans(d *Node) {
	for range maxDisconnects {
		w.unban(d, 0)
		w.Engine.Sleep(time.Millisecond)
	}
}

// names reports whether the request is about c itself.
func (k *disconnect) names(c *Client) bool {
	return k.node == c.Node && (k.server == c.Server || k.user == c.user.Name || k.phone == c.Number)
}

// during reports whether the request may have had an effect between from and to: a ban
// has one until its end or its lifting.
func (k *disconnect) during(from, to engine.Stamp) bool {
	if to.Step > 0 && k.from.Step > to.Step {
		return false
	}
	return k.to.After(from) || k.ban && k.until >= from.At && k.over.After(from)
}

// mayHaveDisconnected reports whether an operator may have closed c between its dial and
// its close: by a request about c, or about a binary with the slot that c was in.
func (w *Instance) mayHaveDisconnected(c *Client) bool {
	for i := range w.disconnects[:w.ndisconnects] {
		k := &w.disconnects[i]
		if !k.during(c.DialedAt, c.ClosedAt) {
			continue
		}
		if k.names(c) || c.Phone && w.Binaries(c, func(b *Client) bool { return k.names(b) }) {
			return true
		}
	}
	return false
}

// mayBeBanned reports whether c may have been refused over HTTP because of a ban.
func (w *Instance) mayBeBanned(c *Client) bool {
	for i := range w.disconnects[:w.ndisconnects] {
		if k := &w.disconnects[i]; k.ban && k.names(c) && k.during(c.DialedAt, c.ServedAt) {
			return true
		}
	}
	return false
}

// judgeDisconnects checks what requests of operators did to c: what they name is closed
// in time, and a ban that is in force keeps it out.
func (w *Instance) judgeDisconnects(c *Client) {
	for i := range w.disconnects[:w.ndisconnects] {
		k := &w.disconnects[i]
		if k.to.Step == 0 || c.Node != k.node {
			continue
		}
		if k.ban && k.names(c) && c.Upgraded && c.DialedAt.Step > k.to.Step && c.UpgradedAt.At < k.until && k.lifted.After(c.UpgradedAt) {
			w.Blame("ban", c, "upgraded while it is banned")
		}
		if !w.exactTiming || !c.Upgraded || c.Faults != 0 || c.CloseSent || w.aborted || w.closedForMemory(c) {
			continue
		}
		// What was served when the request began is closed by it.
		since := k.to
		switch {
		case k.names(c) && c.ServedAt.Step > 0 && c.ServedAt.Step < k.from.Step:
		case k.ban && k.names(c) && c.DialedAt.Step < k.to.Step && c.UpgradedAt.At < k.until && k.lifted.After(c.UpgradedAt): // it met the ban on its way in
			if c.ServedAt.Step == 0 {
				continue
			}
			if c.ServedAt.After(since) {
				since = c.ServedAt
			}
		case k.phone == 0 && w.servedBy(c, k):
		default:
			continue
		}
		if c.endedAt.Step != 0 && k.from.After(c.endedAt) {
			continue
		}
		if late := c.ClosedAt.At - since.At; !c.Closed || late > w.MaxDelay(c) {
			w.Blame("disconnect", c, "closed %d ms after the operator had disconnected it (closed: %t); want %d at most", late/1e6, c.Closed, w.MaxDelay(c)/1e6)
		}
	}
}

// servedBy reports whether phone c was certainly in the slot of a binary that the request
// names when it began.
func (w *Instance) servedBy(c *Client, k *disconnect) bool {
	return c.Phone && w.Binaries(c, func(b *Client) bool {
		f := b.Flows[c.Number]
		return k.names(b) && f != nil && len(f.Got) > 0 && k.from.After(f.Got[0]) && b.Faults == 0 && !b.CloseSent &&
			b.endedAt.After(k.from) && b.ClosedAt.After(k.from)
	})
}

// judgeDisconnectCounts compares the connections that the relay counts as closed by
// operators with those that were told so.
func (w *Instance) judgeDisconnectCounts(d *Node, counted int, refused int) {
	reported, told := 0, 0
	for i := range w.disconnects[:w.ndisconnects] {
		if k := &w.disconnects[i]; k.node == d {
			reported += k.counted
		}
	}
	for _, c := range w.All() {
		if c.Node == d && c.Closed && c.Reason == operatorReason {
			told++
		}
	}
	if d.access == nil && counted != reported { // those that lose their access are counted, too
		w.Engine.Fail("disconnect", "%d connections are counted as closed by operators; they were told of %d", counted, reported)
	}
	if told > reported+refused {
		w.Engine.Fail("disconnect", "%d connections were told that an operator had closed them; %d were closed, and %d refused", told, reported, refused)
	}
}

// coverDisconnects marks the coverage goals of disconnects and bans.
func (w *Instance) coverDisconnects(c *Client) {
	e := w.Engine
	e.Sometimes(sawBanned, c.Status == 403 && c.Kind == AsIs && w.mayBeBanned(c))
	if c.Reason != operatorReason {
		return
	}
	e.Sometimes(sawKickedBinary, !c.Phone && len(c.known) > 0)
	e.Sometimes(sawKickedPhone, c.Phone && len(c.Flow(0).Got) > 0)
	e.Sometimes(sawKickedClaimant, !c.Phone && w.Binaries(c, func(b *Client) bool {
		return b.firstFrameAt().Step != 0 && c.DialedAt.After(b.firstFrameAt()) && b.endedAt.After(c.ClosedAt) && b.ClosedAt.After(c.ClosedAt)
	}))
	for i := range w.disconnects[:w.ndisconnects] {
		k := &w.disconnects[i]
		e.Sometimes(sawBannedLate, k.ban && k.names(c) && c.UpgradedAt.Step > k.from.Step && c.DialedAt.Step < k.to.Step)
	}
}
