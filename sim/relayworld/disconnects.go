package relayworld

import (
	"net/netip"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/relay"
	"github.com/pyrycode/pyrycode-relay/internal/wire"
	"github.com/pyrycode/pyrycode-relay/sim/history"
)

// Operators disconnect and ban clients at any moment.

// operatorReason is the reason of a close by an operator.
const operatorReason = "disconnected by the operator"

// disconnect is one request of an operator: a disconnect, or a ban.
type disconnect struct {
	history.Request
	node         *Node
	done, lifted bool
	doneAt       int64
}

// maxDisconnects is how many such requests one run may have.
const maxDisconnects = 32

// operatorDisconnects carries out one of the requests that operators make, by number.
func (w *Instance) operatorDisconnects(d *Node, verb, arg int) {
	if verb == VerbUnban {
		w.unban(d, arg)
		return
	}
	before := graces(d)
	k := w.beginDisconnect(d, verb == VerbBan, arg)
	if k == nil {
		return
	}
	defer w.checkGraceEnded(d, k, before)
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

// graces returns the ends of all graces.
func graces(d *Node) map[string]time.Time {
	all := map[string]time.Time{}
	d.Relay.Graces(func(g relay.Grace) { all[string(g.Server)] = g.Until })
	return all
}

// checkGraceEnded checks that a request about a server-id has ended the grace that the
// server-id had before.
func (w *Instance) checkGraceEnded(d *Node, k *disconnect, before map[string]time.Time) {
	if until, had := before[k.Server]; had && graces(d)[k.Server] == until {
		w.Engine.Fail("disconnect", "the operator has disconnected %s, and its slot is still in grace", k.Server)
	}
}

// selector returns the selector of a disconnect.
func (k *disconnect) selector() relay.Selector {
	switch {
	case k.Phone > 0:
		return relay.Selector{Conn: wire.ConnID(appendConnID(nil, k.Phone))}
	case k.Server != "":
		return relay.Selector{Server: wire.ServerID(k.Server)}
	}
	return k.key().Selector()
}

// key returns the key of a ban.
func (k *disconnect) key() relay.BanKey {
	if k.Server != "" {
		return relay.ServerBan(wire.ServerID(k.Server))
	}
	a := addressOf(k.Address)
	key, err := relay.NetworkBan(netip.PrefixFrom(a, a.BitLen()))
	if err != nil {
		panic(err)
	}
	return key
}

func (k *disconnect) asBan(w *Instance) relay.Ban {
	now := w.Engine.Time()
	return relay.Ban{Key: k.key(), Made: now, Until: now.Add(time.Duration(k.Until - w.Engine.Now()))}
}

// beginDisconnect records that a request begins. It returns nil if there were too many,
// if there is nothing to select, or if the run heals.
//
//go:norace
func (w *Instance) beginDisconnect(d *Node, ban bool, arg int) *disconnect {
	if w.ndisconnects == maxDisconnects || w.Healing.Get() {
		return nil
	}
	k := &disconnect{node: d, Request: history.Request{Ban: ban}}
	switch arg % 4 {
	case 0, 1:
		k.Server = Servers[arg/4%MaxServers]
	case 2:
		if w.Nclients == 0 {
			return nil
		}
		c := w.Clients[max(1, w.Nclients-arg/4%3)].Load() // one of the newest, which may be connecting
		if c == nil {
			return nil
		}
		k.Address = c.user.Name
	case 3:
		for n := 1; n <= w.Nclients && k.Phone == 0; n++ {
			if c := w.Clients[(n+arg)%w.Nclients+1].Load(); c != nil && c.Phone && c.Node == d {
				k.Phone = c.Number
			}
		}
		if ban || k.Phone == 0 {
			return nil
		}
	}
	if ban {
		k.Until = w.Engine.Now() + int64([...]time.Duration{time.Second, 5 * time.Second, 40 * time.Second}[arg/4%3])
		for i := range w.disconnects[:w.ndisconnects] {
			if o := w.disconnects[i]; o.Ban && o.node == d && o.Server == k.Server && o.Address == k.Address {
				return nil // one ban for each key, so that it is clear which one is in force
			}
		}
	}
	w.Record(history.Event{Kind: history.RequestBegan, Node: d.N, Data: &k.Request})
	w.disconnects[w.ndisconnects] = k
	w.ndisconnects++
	return k
}

//go:norace
func (w *Instance) endDisconnect(k *disconnect, n relay.Disconnected) {
	k.done, k.doneAt = true, w.Engine.Now()
	w.Record(history.Event{Kind: history.RequestEnded, Node: k.node.N, N: n.Binaries + n.Phones, Data: &k.Request})
	w.Record(history.Event{Kind: history.GraceKicked, Node: k.node.N, N: n.Graces})
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
	w.Record(history.Event{Kind: history.LiftEnded, Node: d.N, Data: &k.Request})
}

//go:norace
func (w *Instance) beginUnban(d *Node, n int) *disconnect {
	for i := range w.ndisconnects {
		k := w.disconnects[(i+n)%w.ndisconnects]
		if k.Ban && k.node == d && k.done && !k.lifted && k.doneAt < w.Engine.Now() && k.Until > w.Engine.Now() {
			k.lifted = true
			w.Record(history.Event{Kind: history.LiftBegan, Node: d.N, Data: &k.Request})
			return k
		}
	}
	return nil
}

// liftBans lifts all bans, for the end of a run, and scrapes the metrics if there were some.
func (w *Instance) liftBans(d *Node) {
	for range maxDisconnects {
		w.unban(d, 0)
		w.Engine.Sleep(time.Millisecond)
	}
	if w.requested() {
		w.Operate(d, VerbScrape, 0)
	}
}

//go:norace
func (w *Instance) requested() bool { return w.ndisconnects > 0 }

// disconnectGoals are the coverage goals of disconnects and bans.
var disconnectGoals = ConnGoals{
	{goals.Add("a banned client is refused"), func(c *Client) bool {
		return c.Status == 403 && c.Kind == AsIs && c.w.hist.MayBeBanned(c.Conn)
	}},
	{goals.Add("a ban comes while its client connects"), func(c *Client) bool {
		return c.Reason == operatorReason && c.w.hist.BannedLate(c.Conn)
	}},
	{goals.Add("an operator disconnects a binary that serves phones"), func(c *Client) bool {
		return c.Reason == operatorReason && !c.Phone && len(c.known) > 0
	}},
	{goals.Add("an operator disconnects a phone"), func(c *Client) bool {
		return c.Reason == operatorReason && c.Phone && c.Answers() > 0
	}},
	{goals.Add("an operator disconnects a claimant"), func(c *Client) bool {
		return c.Reason == operatorReason && !c.Phone && c.w.hist.Binaries(c.Conn, func(b *history.Conn) bool {
			first := b.FirstFrame()
			return first.Step != 0 && c.DialedAt.After(first) && b.EndedAt.After(c.ClosedAt) && b.ClosedAt.After(c.ClosedAt)
		})
	}},
}
