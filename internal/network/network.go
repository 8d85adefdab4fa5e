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

import "net/netip"

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

// Charged returns the address that stands for a where one network is enough: an IPv6
// address is cut to its /64. The networks of both are the same.
func Charged(a netip.Addr) netip.Addr { return Of(a).prefixes[0].Addr() }

// Counts says how much each network has. The zero value is ready for use. It is not
// safe for concurrent use.
type Counts struct{ m map[netip.Prefix]int }

// Add adds n, which may be negative, to each of ns. What comes to 0 is forgotten.
func (c *Counts) Add(ns Networks, n int) {
	if c.m == nil {
		c.m = make(map[netip.Prefix]int)
	}
	for _, p := range ns.prefixes[:ns.n] {
		if c.m[p] += n; c.m[p] == 0 {
			delete(c.m, p)
		}
	}
}

// Full returns the narrowest of ns that has all it may have if one address may have
// limit.
func (c *Counts) Full(ns Networks, limit int) (p netip.Prefix, full bool) {
	for i := range ns.n {
		p, share := ns.At(i)
		if c.m[p] >= limit*share {
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
		load = max(load, (c.m[p]+share-1)/share)
	}
	return load
}

// Narrow returns the sum of what the narrowest networks have, which is the sum of
// all that was added.
func (c *Counts) Narrow() (sum int) {
	for p, n := range c.m {
		if p.Bits() == levels[0].bits || !p.Addr().Is6() {
			sum += n
		}
	}
	return sum
}
