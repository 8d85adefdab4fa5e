package cluster

import (
	"encoding/json"
	"net/netip"

	"github.com/pyrycode/pyrycode-relay/internal/relay"
	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

// The kinds of questions between nodes.
const (
	askOpen  = "open"  // join a phone
	askProbe = "probe" // is the binary alive?
)

// question is a request from one node to another.
type question struct {
	V      int    `json:"v"`
	Ask    string `json:"ask"`
	From   string `json:"from"`
	Server []byte `json:"server"` // may be invalid UTF-8
	Nonce  string `json:"nonce"`  // of the lease

	// The following fields are those of askOpen.
	Stream uint64 `json:"stream,omitempty"`
	Device string `json:"device,omitempty"`
	Remote string `json:"remote,omitempty"`

	Data []byte `json:"data,omitempty"` // of askOperate, which has no server-id
}

// answer is a node's answer to a question, as it is on the bus.
type answer string

const (
	answerNone     answer = ""        // no answer, or an unknown one
	answerAlive    answer = "alive"   // the binary is alive
	answerReleased answer = "let go"  // the slot is free now: claim again
	answerGone     answer = "gone"    // the lease has ended for good
	answerBusy     answer = "busy"    // ask again
	answerJoined   answer = "joined"  // the phone has joined
	answerFull     answer = "full"    // the slot is at its limit of phones
	answerRefused  answer = "refused" // the node shuts down
)

// request sends q to a node and waits for the answer. It returns answerNone if
// that node is silent or does not answer in time.
func (n *Node) request(to string, q question) answer {
	owner, ok := parseNodeID(to)
	if !ok {
		n.metrics.silent[q.Ask].Inc()
		return answerNone
	}
	if !n.hears(owner) { // do not wait for a silent node
		n.refuse(owner, q.Ask)
		return answerNone
	}
	timeout := n.cfg.ProbeTimeout
	if q.Ask == askOpen {
		timeout = n.cfg.OpenTimeout
	}
	q.V, q.From = protocol, n.id.String()
	b, err := json.Marshal(q)
	if err != nil {
		panic(err) // a question can always be marshalled
	}
	got, err := n.cfg.Bus.Request(n.ctlSubject(owner), b, timeout)
	if err != nil {
		n.refuse(owner, q.Ask)
		return answerNone
	}
	return answer(got)
}

// ask asks the node that v names whether the binary of id is alive.
func (n *Node) ask(v value, id wire.ServerID) answer {
	return n.request(v.Node, question{Ask: askProbe, Server: []byte(id), Nonce: v.Nonce})
}

// onCtl handles questions of other nodes, and echoes of heartbeats.
func (n *Node) onCtl(m Message) {
	if b, ok := parseHeartbeat(m.Data); ok {
		if b.echo {
			n.saw(b.node, "")
			n.metrics.roundTrip.Observe(float64(n.rt.Clock.Now().UnixNano()-b.at) / 1e9)
		}
		return
	}
	var q question
	if json.Unmarshal(m.Data, &q) != nil || q.V != protocol {
		return
	}
	if q.Ask == askOperate {
		n.onOperate(q, m.Reply)
		return
	}
	if len(q.Server) == 0 || len(q.Server) > wire.MaxServerID {
		return
	}
	reply := func(a answer) { m.Reply([]byte(a)) }
	switch q.Ask {
	case askOpen:
		reply(n.onOpen(q))
	case askProbe:
		n.onProbe(q, reply)
	}
}

// onProbe probes the binary of a lease. It calls reply once, possibly later and
// from another task.
func (n *Node) onProbe(q question, reply func(answer)) {
	id := wire.ServerID(q.Server)
	n.mu.Lock()
	t := n.leases[keyOf(id)]
	mine := t != nil && t.nonce == q.Nonce
	busy := mine && (t.lost != "" || t.state == "")
	n.mu.Unlock()
	switch {
	case !mine:
		reply(answerGone)
		return
	case busy:
		reply(answerBusy)
		return
	}
	release := func() {
		n.rt.Go("let go", func() {
			n.sync(t, false)
			reply(answerReleased)
		})
	}
	if n.host.Slot(id) != relay.SlotHeld {
		release() // the directory has not been updated yet
		return
	}
	n.host.Probe(id, func(v relay.Verdict) {
		switch v {
		case relay.Alive:
			reply(answerAlive)
		case relay.Busy:
			reply(answerBusy)
		default:
			release()
		}
	})
}

// onOpen joins a phone that has its socket at another node.
func (n *Node) onOpen(q question) answer {
	id := wire.ServerID(q.Server)
	from, ok := parseNodeID(q.From)
	if !ok || from == n.id {
		return answerGone
	}
	n.mu.Lock()
	t := n.leases[keyOf(id)]
	mine := t != nil && t.nonce == q.Nonce && t.lost == "" && t.state != ""
	draining := n.draining
	n.mu.Unlock()
	switch {
	case draining:
		return answerRefused
	case !mine:
		return answerGone
	}
	n.saw(from, "")
	s := n.newStream(from, q.Stream)
	if !n.join(s) {
		return answerRefused
	}
	remote, _ := netip.ParseAddr(q.Remote) // for the log only
	switch n.host.Join(relay.RemotePhone{Server: id, Device: wire.Printable(q.Device, 128), From: remote}, socket{s}) {
	case relay.Joined:
		return answerJoined
	case relay.Full:
		return answerFull
	case relay.Refused:
		return answerRefused
	}
	return answerGone
}

// remoteSlot is a slot at another node.
type remoteSlot struct {
	node  *Node
	id    wire.ServerID
	owner NodeID
	nonce string
}

// Join implements relay.RemoteSlot. If the slot has moved, it asks the directory
// again, once.
func (e *remoteSlot) Join(v relay.RemotePhone) (relay.Stream, relay.Outcome) {
	n := e.node
	for again := false; ; again = true {
		c := n.newProxy(e.owner)
		if c == nil {
			return nil, relay.Refused
		}
		a := n.request(e.owner.String(), question{Ask: askOpen, Server: []byte(e.id), Nonce: e.nonce,
			Stream: c.key.id, Device: v.Device, Remote: v.From.String()})
		if a == answerJoined {
			return c, relay.Joined
		}
		c.end(kindClose) // the phone may have joined although no answer came
		switch a {
		case answerFull:
			return nil, relay.Full
		case answerGone:
		default:
			return nil, relay.Refused
		}
		if again {
			return nil, relay.NoServer
		}
		now, err := n.findAgain(e.id)
		moved, ok := now.(*remoteSlot)
		switch {
		case err != nil:
			return nil, relay.Refused
		case !ok:
			return nil, relay.NoServer
		}
		*e = *moved
	}
}
