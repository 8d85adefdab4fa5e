package config

import (
	"cmp"
	"errors"
	"math"
	"net/netip"
	"slices"
	"strings"
)

// Networks are networks of addresses, such as those of --trusted-proxies.
type Networks []netip.Prefix

// mapped is where IPv6 has the addresses of IPv4.
var mapped = netip.MustParsePrefix("::ffff:0:0/96")

// parseNetwork reads a network, or one address. An IPv4 network may be written
// as IPv6, as in ::ffff:10.0.0.0/104: it becomes 10.0.0.0/8, since callers'
// addresses are compared as IPv4. The error is the end of a sentence that
// begins with "must be a network or an address".
func parseNetwork(text string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(text); err == nil {
		if a.Zone() != "" {
			return netip.Prefix{}, errors.New(" without a zone: an address is trusted on every interface")
		}
		a = a.Unmap()
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(text)
	switch {
	case err != nil:
		return netip.Prefix{}, errors.New("")
	case p.Addr().Is4In6() && p.Bits() >= mapped.Bits():
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-mapped.Bits())
	case p.Bits() > 0 && p.Addr().Is6() && p.Overlaps(mapped):
		return netip.Prefix{}, errors.New(": this one has the addresses of IPv4 in it, and those are compared as IPv4")
	}
	return p.Masked(), nil
}

// ParseNetworks reads networks that have been checked.
func ParseNetworks(texts []string) Networks {
	var all Networks
	for _, t := range texts {
		if p, err := parseNetwork(t); err == nil {
			all = append(all, p)
		}
	}
	return all
}

// global is where IPv6 has the addresses of the internet.
var global = netip.MustParsePrefix("2000::/3")

// tooMany reports whether ps are, together, more than a sixteenth of all
// addresses of IPv4, or of those that the internet has of IPv6. A /4 of IPv4
// or a /7 of IPv6 is just allowed.
func tooMany(ps []netip.Prefix) bool {
	var four, six float64 // the parts of all addresses
	ps = slices.Clone(ps)
	slices.SortFunc(ps, func(a, b netip.Prefix) int { return cmp.Compare(a.Bits(), b.Bits()) })
	for i, p := range ps {
		within := func(wider netip.Prefix) bool { return wider.Overlaps(p) }
		switch {
		case slices.ContainsFunc(ps[:i], within): // counted already
		case p.Addr().Is4():
			four += math.Ldexp(1, -p.Bits())
		case p.Overlaps(global):
			six += math.Ldexp(1, global.Bits()-max(p.Bits(), global.Bits()))
		}
	}
	return four > 1.0/16 || six > 1.0/16
}

// Contain reports whether a is in one of ps.
func (ps Networks) Contain(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	for _, p := range ps {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// proxies looks at who may say who is calling.
func (v *validator) proxies(c Config) {
	wide := false
	for _, text := range c.TrustedProxies {
		p, err := parseNetwork(text)
		switch {
		case err != nil:
			v.add("trusted-proxies", text, "must be a network or an address"+err.Error(), "for example 10.0.0.0/8 or 192.0.2.7")
		case tooMany([]netip.Prefix{p}):
			wide = true
			v.add("trusted-proxies", text, "must not be everybody: all addresses could be made up", "name the proxies' network")
		}
	}
	if all := ParseNetworks(c.TrustedProxies); !wide && tooMany(all) {
		v.add("trusted-proxies", strings.Join(c.TrustedProxies, ","), "must not be everybody: together these networks are more than a sixteenth of all addresses, which could be made up", "name the proxies' networks")
	}
	if c.ProxyProtocol && len(c.TrustedProxies) == 0 {
		v.add("proxy-protocol", "true", "needs --trusted-proxies", "name the addresses that the PROXY headers come from; others are refused")
	}
}
