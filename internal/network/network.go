// Package network defines which addresses share a limit, and counts what each network
// uses.
//
// An IPv4 address has a limit of its own: neighbouring addresses often belong to
// different customers, and each address costs its owner money. One IPv6 customer has a
// whole network: at least a /64, and a /56 or a /48 in most homes, offices and data
// centres. However, a mobile carrier also assigns the /64s of its phones from one /48.
// Therefore a wider network has a higher limit than one address, which is much lower
// than the sum of the limits of its /64s: twice the limit for a /56, four times for a
// /48. The 65,536 /64s of one customer then have the limit of four addresses, and a
// carrier's /48 has more than that of one.
//
// The package imports nothing of this module. Begin with Of and Counts.
package network

import (
	"net/netip"
	"slices"
)

// levels are the prefix lengths at which IPv6 networks are counted, the narrowest
// network first. multiple is the limit of such a network in multiples of the limit of one
// address.
var levels = [...]struct{ bits, multiple int }{{64, 1}, {56, 2}, {48, 4}}

// Networks are the networks of one address, the narrowest first.
type Networks struct {
	prefixes [len(levels)]netip.Prefix
	n        int
}

// Of returns the networks of a. An IPv4 address has one network, which contains only
// that address. All invalid addresses share one network.
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

// Len returns the number of networks.
func (ns Networks) Len() int { return ns.n }

// At returns network i, and its limit in multiples of the limit of one address. Network 0
// is the narrowest.
func (ns Networks) At(i int) (p netip.Prefix, multiple int) {
	return ns.prefixes[i], levels[i].multiple
}

// Narrowest returns the network that counts as one address.
func (ns Networks) Narrowest() netip.Prefix { return ns.prefixes[0] }

// Widest returns the largest network that one customer may have. For IPv6 it is a /48,
// which can also belong to a carrier with many customers.
func (ns Networks) Widest() netip.Prefix { return ns.prefixes[ns.n-1] }

// Charged returns one address for all addresses of a's narrowest network: a itself for
// IPv4, the first address of the /64 for IPv6. It has the same networks as a.
func Charged(a netip.Addr) netip.Addr { return Of(a).prefixes[0].Addr() }

// ChargedPrefix returns the network of the charged addresses of p: an IPv6 network that is
// narrower than a /64 stands for its /64.
func ChargedPrefix(p netip.Prefix) netip.Prefix {
	a, bits := p.Addr(), p.Bits()
	if a.Is4In6() && bits >= 96 {
		a, bits = a.Unmap(), bits-96
	}
	if a.Is6() {
		bits = min(bits, levels[0].bits)
	}
	return netip.PrefixFrom(a.WithZone(""), bits).Masked()
}

// Counts has a count for each network. The zero value is ready to use. A caller must not
// use it concurrently.
type Counts struct {
	groups   map[netip.Prefix]*Group // by the narrowest network
	networks map[netip.Prefix]*int
}

// Group has the counts of the networks of one address in a [Counts]. It is valid until
// the count of the narrowest network becomes 0.
type Group struct {
	ns     Networks
	counts [len(levels)]*int
}

// Add adds n, which may be negative, to the count of each network of ns. It returns their
// group, and deletes counts that become 0.
func (c *Counts) Add(ns Networks, n int) *Group {
	g := c.groups[ns.Narrowest()]
	if g == nil {
		g = c.group(ns)
	}
	for i, p := range ns.prefixes[:ns.n] {
		if *g.counts[i] += n; *g.counts[i] == 0 {
			delete(c.networks, p)
			if i == 0 {
				delete(c.groups, p)
			}
		}
	}
	return g
}

// group creates the group of ns.
func (c *Counts) group(ns Networks) *Group {
	if c.groups == nil {
		c.groups, c.networks = make(map[netip.Prefix]*Group), make(map[netip.Prefix]*int)
	}
	g := &Group{ns: ns}
	for i, p := range ns.prefixes[:ns.n] {
		if g.counts[i] = c.networks[p]; g.counts[i] == nil {
			g.counts[i] = new(int)
			c.networks[p] = g.counts[i]
		}
	}
	c.groups[ns.Narrowest()] = g
	return g
}

// Full returns the narrowest network of ns that has reached its limit, if any has. limit
// is the limit of one address.
func (c *Counts) Full(ns Networks, limit int) (p netip.Prefix, full bool) {
	for i := range ns.n {
		p, multiple := ns.At(i)
		if n := c.networks[p]; n != nil && *n >= limit*multiple {
			return p, true
		}
	}
	return netip.Prefix{}, false
}

// Load returns the highest load of a network of ns. The load is the count of a network,
// divided by its limit in multiples of the limit of one address, and rounded up.
func (c *Counts) Load(ns Networks) (load int) {
	for i := range ns.n {
		p, multiple := ns.At(i)
		if n := c.networks[p]; n != nil {
			load = max(load, (*n+multiple-1)/multiple)
		}
	}
	return load
}

// Load returns the highest load of a network of the group, as [Counts.Load] does.
func (g *Group) Load() (load int) {
	for i, n := range g.counts[:g.ns.n] {
		multiple := levels[i].multiple
		load = max(load, (*n+multiple-1)/multiple)
	}
	return load
}

// Networks returns the networks of the group.
func (g *Group) Networks() Networks { return g.ns }

// In reports whether p is one of the group's networks.
func (g *Group) In(p netip.Prefix) bool { return slices.Contains(g.ns.prefixes[:g.ns.n], p) }

// Sum returns the sum of the counts of all addresses.
func (c *Counts) Sum() (sum int) {
	for _, g := range c.groups {
		sum += *g.counts[0]
	}
	return sum
}
