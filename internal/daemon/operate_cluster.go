package daemon

import (
	"cmp"
	"encoding/json"
	"fmt"

	"github.com/pyrycode/pyrycode-relay/internal/cluster"
	"github.com/pyrycode/pyrycode-relay/internal/relay"
)

// operation is what an operator does at one node, on its way to the others.
type operation struct {
	Action string      `json:"action"` // empty: bans of before, for a node that has just come
	What   string      `json:"what,omitempty"`
	Shown  string      `json:"shown,omitempty"`
	Why    string      `json:"why,omitempty"`
	By     string      `json:"by,omitempty"`
	Bans   []banRecord `json:"bans,omitempty"`
}

// bansBytes limits the JSON of the bans in one message to another node, which has them in
// base64. A link takes messages of 32 KiB, and a ban has less than 3.
const bansBytes = 20 << 10

// askOthers makes the other nodes do the same, and adds the connections that they have
// closed to a.
func (o *operations) askOthers(op operation, a *OperatorAnswer) {
	for _, other := range o.cluster.askOthers(op) {
		var got OperatorAnswer
		err := other.Err
		if err == nil {
			err = json.Unmarshal(other.Data, &got)
		}
		if err != nil {
			a.Silent = append(a.Silent, fmt.Sprintf("%s: %v", other.Node, err))
			continue
		}
		a.Binaries += got.Binaries
		a.Phones += got.Phones
		a.Graces += got.Graces
		a.Lifted = a.Lifted || got.Lifted
	}
}

// askOthers sends op to all other nodes and returns their answers. Without a cluster
// there are none.
func (c *clustered) askOthers(op operation) []cluster.NodeAnswer {
	if c == nil {
		return nil
	}
	return c.node.AskOthers(marshal(op))
}

// operate carries out an operation of an operator at the node from, and returns the answer.
func (o *operations) operate(from string, data []byte) []byte {
	var op operation
	if err := json.Unmarshal(data, &op); err != nil {
		return []byte(err.Error())
	}
	var a OperatorAnswer
	if op.Action == actionKick {
		if t, err := o.parseTarget(op.What); err == nil {
			a.add(o.relay.Disconnect(t.Selector, relay.ByOperator, relay.ByOperator, false))
		}
	}
	changed := false
	var refused error
	for _, r := range op.Bans {
		b, err := r.ban()
		if err != nil {
			continue // of a later version
		}
		known := b.Lifted && o.inForce(b.Key)
		applied, n, err := o.relay.Ban(b)
		if err != nil {
			refused = cmp.Or(refused, err) // the others count
			continue
		}
		a.add(n)
		changed = changed || applied
		a.Lifted = a.Lifted || applied && known
	}
	if changed {
		_ = o.store.save() // keep has logged the error
	}
	if refused != nil {
		return []byte(refused.Error())
	}
	if op.Action != "" {
		outcome := a.outcome()
		if changed {
			outcome = outcomeDone
		}
		o.audit.log.Warn("operator_action", "action", op.Action, "what", op.Shown, "why", op.Why, "by", op.By, "node", from,
			"outcome", outcome, "count", a.closed())
	}
	return marshal(a)
}

// inForce reports whether there is a ban of key that is not lifted.
func (o *operations) inForce(key relay.BanKey) bool {
	b, ok := o.relay.BanOf(key)
	return ok && !b.Lifted
}

// greet sends the bans of this node to a node that has just come. Both nodes do that, so
// that each gets the bans that it has missed.
func (o *operations) greet(id cluster.NodeID) {
	all := o.relay.Bans()
	for len(all) > 0 {
		op, size := operation{}, 0
		for _, b := range all {
			r := recordOf(b)
			if size += len(marshal(r)); size > bansBytes && len(op.Bans) > 0 {
				break
			}
			op.Bans = append(op.Bans, r)
		}
		all = all[len(op.Bans):]
		_ = o.cluster.node.AskNode(id, marshal(op)) // a node of an earlier version does not answer
	}
}

// marshal returns v in JSON. v must be an operation, an answer or a record.
func marshal(v any) []byte {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err) // these can always be marshalled
	}
	return text
}
