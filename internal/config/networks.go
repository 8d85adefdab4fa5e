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

// mapped has the IPv4 addresses in the form of IPv6.
var mapped = netip.MustParsePrefix("::ffff:0:0/96")

// parseNetwork parses a network or an address. An IPv4 network may have the form of
// IPv6, such as ::ffff:10.0.0.0/104. It becomes 10.0.0.0/8, because IPv4 addresses of
// clients are compared in the form of IPv4. The error is the end of a sentence that
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

// ParseNetworks parses networks that Check has accepted.
func ParseNetworks(texts []string) Networks {
	var all Networks
	for _, t := range texts {
		if p, err := parseNetwork(t); err == nil {
			all = append(all, p)
		}
	}
	return all
}

// global has the IPv6 addresses of the internet.
var global = netip.MustParsePrefix("2000::/3")

// tooMany reports whether ps together contain more than a sixteenth of all IPv4
// addresses, or of the IPv6 addresses in global. An IPv4 /4 or an IPv6 /7 is not too
// many.
func tooMany(ps []netip.Prefix) bool {
	var four, six float64 // fractions of all addresses
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

// proxies checks --trusted-proxies and --proxy-protocol.
func (v *validator) proxies(c Config) {
	wide := false
	for _, text := range c.TrustedProxies {
		p, err := parseNetwork(text)
		switch {
		case err != nil:
			v.add("trusted-proxies", text, "must be a network or an address"+err.Error(), "for example 10.0.0.0/8 or 192.0.2.7")
		case tooMany([]netip.Prefix{p}):
			wide = true
			v.add("trusted-proxies", text, "must not include so many addresses: their clients can forge every address", "name the proxies' network")
		}
	}
	if all := ParseNetworks(c.TrustedProxies); !wide && tooMany(all) {
		v.add("trusted-proxies", strings.Join(c.TrustedProxies, ","), "must not include so many addresses: together these networks are more than a sixteenth of all addresses, and their clients can forge every address", "name the proxies' networks")
	}
	if c.ProxyProtocol && len(c.TrustedProxies) == 0 {
		v.add("proxy-protocol", "true", "needs --trusted-proxies", "name the addresses that the PROXY headers come from; others are refused")
	}
}
