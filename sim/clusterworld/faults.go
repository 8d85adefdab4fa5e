package clusterworld

import (
	"fmt"

	"github.com/pyrycode/pyrycode-relay/sim/relayworld"
)

// The calls of the directory. Each has two fault points: the request is lost, or it is
// carried out and its answer is lost. The caller cannot tell these two apart.
const (
	callGrant     = "grant"
	callKeepAlive = "keep-alive"
	callEnd       = "end"
	callWrite     = "write"
	callRead      = "read"
)

const (
	requestLost = "-request"
	answerLost  = "-answer"
)

// The fault points of the links between nodes. The first three break the link.
const (
	faultLinkRead      = "link-read"
	faultLinkWrite     = "link-write"
	faultLinkHalfClose = "link-half-close"
	faultLinkDial      = "link-dial"
)

// FaultPoints lists what can fail around the nodes: the sockets of peers, the directory,
// and the links.
func (World) FaultPoints() []string {
	all := relayworld.World{}.FaultPoints()
	for _, call := range []string{callGrant, callKeepAlive, callEnd, callWrite, callRead} {
		all = append(all, directoryPoint+call+requestLost)
		if call != callRead {
			all = append(all, directoryPoint+call+answerLost)
		}
	}
	return append(all, faultLinkRead, faultLinkWrite, faultLinkHalfClose, faultLinkDial)
}

// directoryPoint begins the names of the fault points of the directory.
const directoryPoint = "directory-"

// failsAt reports whether the fault point of that name fails at the node.
func (l *nodeLink) failsAt(what string) bool {
	if !l.w.Engine.NewFaultPoint(what, fmt.Sprint("node", l.number)).Fails() {
		return false
	}
	l.w.faulted()
	return true
}

// faulted records that a fault point of the directory or of a link has failed.
func (w *instance) faulted() {
	w.anyFault.Set(true)
	w.trouble(0)
}
