package cluster

import (
	"cmp"
	"encoding/json"
	"errors"
	"slices"
)

// askOperate is the kind of question that carries what an operator does at one node to
// the others.
const askOperate = "operate"

// NodeAnswer is the answer of another node to what an operator does.
type NodeAnswer struct {
	Node string // its name, or its id if the name is not known
	Data []byte
	Err  error // the node has not answered
}

// errNoAnswer says that a node does not answer what an operator does.
var errNoAnswer = errors.New("it has not answered; it may be gone, or of an earlier version")

// AskOthers sends data to all nodes with a link, which pass it to their
// Config.Operate, and returns their answers, sorted by name. It waits for
// Config.ProbeTimeout at most. Do not call it while you hold a lock.
func (n *Node) AskOthers(data []byte) []NodeAnswer {
	n.mu.Lock()
	ids := n.linked()
	n.mu.Unlock()
	if len(ids) == 0 {
		return nil
	}
	answers := make([]NodeAnswer, len(ids))
	all, todo := n.rt.NewGate(), len(ids)
	for i, id := range ids {
		n.rt.Go("ask node", func() {
			a := n.AskNode(id, data)
			n.mu.Lock()
			answers[i] = a
			todo--
			last := todo == 0
			n.mu.Unlock()
			if last {
				all.Open()
			}
		})
	}
	all.Wait()
	slices.SortFunc(answers, func(a, b NodeAnswer) int { return cmp.Compare(a.Node, b.Node) })
	return answers
}

// AskNode is AskOthers for one node.
func (n *Node) AskNode(id NodeID, data []byte) NodeAnswer {
	a := NodeAnswer{Node: n.nameOf(id)}
	b, err := json.Marshal(question{V: protocol, Ask: askOperate, Data: data})
	if err != nil {
		panic(err) // a question can always be marshalled
	}
	if a.Data, err = n.askNode(id, b, n.cfg.ProbeTimeout); err != nil || len(a.Data) == 0 {
		a.Err = errNoAnswer
	}
	return a
}
