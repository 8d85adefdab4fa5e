// Package network says which addresses belong together when connections are
// limited, and counts what each network has.
//
// An IPv4 address stands alone: neighbouring addresses are often of different
// customers, and each one costs its owner money. Of IPv6 one customer has a
// network: a /64 at least, a /56 or a /48 in most homes, offices and data
// centres. Yet a /48 is also what a mobile carrier gives its phones /64s from. So
// wider networks have limits of their own, which are higher than that of one
// address and much lower than the sum of what is in them: twice the limit for a
// /56, four times for a /48. Sixty-five thousand /64s of one customer then count as
// four addresses, and a carrier's /48 is not cut down to one.
//
// The package imports nothing of this module.
package network

import (
	"net/netip"
	"slices"
)

// levels are the widths of an IPv6 network that count, the narrowest first, and how
// many times the limit of one address each may have.
var levels = [...]struct{ bits, share int }{{64, 1}, {56, 2}, {48, 4}}

// Networks are the networks in which an address counts, the narrowest first.
type Networks struct {
	prefixes [len(levels)]netip.Prefix
	n        int
}

// Of returns the networks of a. An IPv4 address has one, itself. An invalid address
// has one, too, which all such addresses share.
func Of(a netip.Addr) Networks {
	var ns Networks
	a = a.Unmap().WithZone("")
	if !a.Is6() {
		ns.prefixes[0], ns.n = netip.PrefixFrom(a, a.BitLen()), 1
		return ns
	}
	for i, l := range levels {
		ns.prefixes[i] = netip.PrefixFrom(a, l.bits).Masked()
	}
	ns.n = len(levels)
	return ns
}

// Len returns how many networks there are.
func (ns Networks) Len() int { return ns.n }

// At returns network i, the narrowest first, and how many times the limit of one
// address it may have.
func (ns Networks) At(i int) (p netip.Prefix, share int) { return ns.prefixes[i], levels[i].share }

// Narrowest returns the network that stands for one address.
func (ns Networks) Narrowest() netip.Prefix { return ns.prefixes[0] }

// Widest returns the network that one customer may have. Of IPv6 it is a /48, which may
// also be a carrier's, with many customers.
func (ns Networks) Widest() netip.Prefix { return ns.prefixes[ns.n-1] }

// Charged returns the address that stands for a where one network is enough: an IPv6
// address is cut to its /64. The networks of both are the same.
func Charged(a netip.Addr) netip.Addr { return Of(a).prefixes[0].Addr() }

// Counts says how much each network has. The zero value is ready for use. It is not
// safe for concurrent use.
type Counts struct {
	groups   map[netip.Prefix]*Group // by the narrowest network
	networks map[netip.Prefix]*int
}

// Group is what the networks of one address have in a [Counts]. It is valid as long
// as the narrowest of them has anything.
type Group struct {
	ns   Networks
	have [len(levels)]*int
}

// Add adds n, which may be negative, to what each of ns has, and returns their
// group. What comes to 0 is forgotten.
func (c *Counts) Add(ns Networks, n int) *Group {
	g := c.groups[ns.Narrowest()]
	if g == nil {
		g = c.group(ns)
	}
	for i, p := range ns.prefixes[:ns.n] {
		if *g.have[i] += n; *g.have[i] == 0 {
			delete(c.networks, p)
			if i == 0 {
				delete(c.groups, p)
			}
		}
	}
	return g
}

// group enters the group of ns.
func (c *Counts) group(ns Networks) *Group {
	if c.groups == nil {
		c.groups, c.networks = make(map[netip.Prefix]*Group), make(map[netip.Prefix]*int)
	}
	g := &Group{ns: ns}
	for i, p := range ns.prefixes[:ns.n] {
		if g.have[i] = c.networks[p]; g.have[i] == nil {
			g.have[i] = new(int)
			c.networks[p] = g.have[i]
		}
	}
	c.groups[ns.Narrowest()] = g
	return g
}

// Full returns the narrowest of ns that has all it may have if one address may have
// limit.
func (c *Counts) Full(ns Networks, limit int) (p netip.Prefix, full bool) {
	for i := range ns.n {
		p, share := ns.At(i)
		if have := c.networks[p]; have != nil && *have >= limit*share {
			return p, true
		}
	}
	return netip.Prefix{}, false
}

// Load returns how heavy ns are: the most that one of them has, divided by what it
// may have of the limit of one address, and rounded up.
func (c *Counts) Load(ns Networks) (load int) {
	for i := range ns.n {
		p, share := ns.At(i)
		if have := c.networks[p]; have != nil {
			load = max(load, (*have+share-1)/share)
		}
	}
	return load
}

// Load is [Counts.Load] of the group's networks.
func (g *Group) Load() (load int) {
	for i, have := range g.have[:g.ns.n] {
		share := levels[i].share
		load = max(load, (*have+share-1)/share)
	}
	return load
}

// Networks returns the networks of the group.
func (g *Group) Networks() Networks { return g.ns }

// In reports whether p is one of the group's networks.
func (g *Group) In(p netip.Prefix) bool { return slices.Contains(g.ns.prefixes[:g.ns.n], p) }

// Sum returns the sum of all that was added.
func (c *Counts) Sum() (sum int) {
	for _, g := range c.groups {
		sum += *g.have[0]
	}
	return sum
}
