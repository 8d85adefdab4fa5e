package cluster

import (
	"encoding/json"
	"net/netip"
	"time"

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
	Server []byte `json:"server"`          // may be invalid UTF-8
	Nonce  string `json:"nonce"`           // of the claim
	Owner  string `json:"owner,omitempty"` // of the claimant; see ownerOf

	// The following fields are those of askOpen.
	Stream uint64 `json:"stream,omitempty"`
	Device string `json:"device,omitempty"`
	Remote string `json:"remote,omitempty"`

	Data []byte `json:"data,omitempty"` // of askOperate, which has no server-id
}

// answer is a node's answer to a question, as it is on the link.
type answer string

const (
	answerNone     answer = ""          // no answer, or an unknown one
	answerAlive    answer = "alive"     // the binary is alive
	answerGone     answer = "gone"      // the node does not serve under the claim, and never will again
	answerBusy     answer = "busy"      // ask again
	answerNotOwner answer = "not owner" // the server-id is bound to another key
	answerJoined   answer = "joined"    // the phone has joined
	answerFull     answer = "full"      // the slot is at its limit of phones
	answerRefused  answer = "refused"   // the node shuts down

	answerEnded answer = "ended" // no answer of a node: its session has ended
)

// request sends q to a node and waits for the answer. It returns answerNone if no
// answer comes in time.
func (n *Node) request(to NodeID, q question) answer {
	timeout := n.cfg.ProbeTimeout
	if q.Ask == askOpen {
		timeout = n.cfg.OpenTimeout
	}
	q.V = protocol
	b, err := json.Marshal(q)
	if err != nil {
		panic(err) // a question can always be marshalled
	}
	got, err := n.askNode(to, b, timeout)
	if err != nil {
		return answerNone
	}
	return answer(got)
}

// askNode sends a question to a node and waits for the answer, for timeout at most.
func (n *Node) askNode(to NodeID, question []byte, timeout time.Duration) ([]byte, error) {
	l := n.linkTo(to)
	if l == nil {
		return nil, errNoLink
	}
	return l.ask(question, timeout)
}

// onQuestion handles a question of the far node of l. It calls reply once, possibly later
// and from another task.
func (n *Node) onQuestion(l *link, data []byte, reply func([]byte)) {
	var q question
	valid := json.Unmarshal(data, &q) == nil && q.V == protocol
	switch answer := func(a answer) { reply([]byte(a)) }; {
	case valid && q.Ask == askOperate && n.cfg.Operate != nil:
		n.rt.Go("operate", func() { reply(n.cfg.Operate(n.nameOf(l.far), q.Data)) })
	case !valid || len(q.Server) == 0 || len(q.Server) > wire.MaxServerID:
		answer(answerNone)
	case q.Ask == askOpen:
		answer(n.onOpen(l, q))
	case q.Ask == askProbe:
		n.onProbe(q, answer)
	default:
		answer(answerNone)
	}
}

// onProbe probes the binary of a claim, and hands the server-id over if no binary holds
// it. It calls reply once, possibly later and from another task.
func (n *Node) onProbe(q question, reply func(answer)) {
	id := wire.ServerID(q.Server)
	n.mu.Lock()
	c := n.claims[keyOf(id)]
	mine := c != nil && c.nonce == q.Nonce
	busy := mine && (c.lost || c.session == nil)
	n.mu.Unlock()
	switch {
	case !mine:
		reply(answerGone)
		return
	case busy:
		reply(answerBusy)
		return
	}
	handOver := func() { n.rt.Go("hand over", func() { reply(n.handOver(c)) }) }
	if owner := ownerOf(n.host.Owner(id)); owner != "" && owner != q.Owner {
		reply(answerNotOwner)
		return
	}
	if n.host.Slot(id) != relay.SlotHeld {
		handOver()
		return
	}
	n.host.Probe(id, func(v relay.Verdict) {
		switch v {
		case relay.Alive:
			reply(answerAlive)
		case relay.Busy:
			reply(answerBusy)
		default:
			handOver()
		}
	})
}

// onOpen joins a phone that has its socket at the far node of l.
func (n *Node) onOpen(l *link, q question) answer {
	id := wire.ServerID(q.Server)
	n.mu.Lock()
	c := n.claims[keyOf(id)]
	mine := c != nil && c.nonce == q.Nonce && !c.lost && c.session != nil
	draining := n.draining
	n.mu.Unlock()
	switch {
	case draining:
		return answerRefused
	case !mine:
		return answerGone
	}
	s := l.newStream(q.Stream)
	if q.Stream&1 == l.side() || !l.add(s) {
		return answerRefused // the id is not one of the far node's, or is in use
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
	from  netip.Addr // of the phone
}

// Join implements relay.RemoteSlot. If the slot has moved, it asks the directory
// again, once.
func (e *remoteSlot) Join(v relay.RemotePhone) (relay.Stream, relay.Outcome) {
	n := e.node
	for again := false; ; again = true {
		c := n.newProxy(e.owner)
		if c == nil { // there is no link
			n.refuse(e.owner, askOpen)
			return nil, relay.Refused
		}
		a := n.request(e.owner, question{Ask: askOpen, Server: []byte(e.id), Nonce: e.nonce,
			Stream: c.id, Device: v.Device, Remote: v.From.String()})
		if a == answerJoined {
			return c, relay.Joined
		}
		c.end(kindClose) // the phone may have joined although no answer came
		switch a {
		case answerFull:
			return nil, relay.Full
		case answerGone:
		case answerNone:
			n.refuse(e.owner, askOpen)
			return nil, relay.Refused
		default:
			return nil, relay.Refused
		}
		if again {
			return nil, relay.NoServer
		}
		now, err := n.Find(e.id, e.from)
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
