package engine

import (
	"errors"
	"time"
)

// A Link is how messages get from one address to another.
type Link struct {
	Latency time.Duration // of every message, at least
	Jitter  time.Duration // at most this much more, as the seed decides
	Rate    int           // bytes per second; 0: any number
	Loss    int           // one message in so many is lost; 0: none
}

// A Network connects addresses. Its messages are ordered on each link and may be
// lost; its connections are streams, ordered and complete. A partition stops both:
// messages are lost, and the bytes of connections wait until it ends.
type Network struct {
	run      *Run
	rnd      *Rand
	standard Link

	// Used only in functions that are hidden from the race detector.
	links *linkState
	ports *Port
}

// linkState is one direction between two addresses.
type linkState struct {
	from, to string
	Link
	cut   bool
	busy  int64 // until then the link sends
	last  int64 // when the newest message arrives
	conns *Conn // with bytes in this direction
	next  *linkState
}

// NewNetwork returns a network with links that are all like l until SetLink.
func (e *Run) NewNetwork(l Link) *Network {
	return &Network{run: e, rnd: NewRand(e.seed ^ 0x6e65), standard: l}
}

// The errors of a network.
var (
	ErrRefused = errors.New("engine: connection refused")
	ErrInUse   = errors.New("engine: address in use")
)

// link returns the state of a direction.
//
//go:norace
func (n *Network) link(from, to string) *linkState {
	for l := n.links; l != nil; l = l.next {
		if l.from == from && l.to == to {
			return l
		}
	}
	n.links = &linkState{from: from, to: to, Link: n.standard, next: n.links}
	return n.links
}

// SetLink changes the link between two addresses, in both directions.
//
//go:norace
func (n *Network) SetLink(a, b string, l Link) {
	n.link(a, b).Link = l
	n.link(b, a).Link = l
}

// Partition cuts two addresses off from each other.
func (n *Network) Partition(a, b string) { n.setCut(a, b, true) }

// Heal ends a partition.
func (n *Network) Heal(a, b string) { n.setCut(a, b, false) }

//go:norace
func (n *Network) setCut(a, b string, cut bool) {
	for _, l := range [2]*linkState{n.link(a, b), n.link(b, a)} {
		l.cut = cut
		for c := l.conns; c != nil; c = c.nextOf(l) {
			c.out(l).SetCut(cut)
		}
	}
	n.run.yield(AtPoint, 0)
}

// arrival returns when a message of so many bytes that is sent now arrives.
//
//go:norace
func (l *linkState) arrival(n *Network, bytes int) int64 {
	start := max(n.run.now, l.busy)
	if l.Rate > 0 {
		start += int64(bytes) * int64(time.Second) / int64(l.Rate)
		l.busy = start
	}
	at := start + int64(l.Latency)
	if l.Jitter > 0 {
		at += int64(n.rnd.Intn(int(l.Jitter)))
	}
	l.last = max(l.last, at)
	return l.last
}
