package daemon

import (
	"cmp"
	"errors"
	"math"
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// proxies are the networks whose word counts on who is calling.
type proxies []netip.Prefix

// mapped is where IPv6 has the addresses of IPv4.
var mapped = netip.MustParsePrefix("::ffff:0:0/96")

// parseProxy reads a network, or one address. An IPv4 network may be written
// as IPv6, as in ::ffff:10.0.0.0/104: it becomes 10.0.0.0/8, since callers'
// addresses are compared as IPv4. The error is the end of a sentence that
// begins with "must be a network or an address".
func parseProxy(text string) (netip.Prefix, error) {
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

// newProxies reads networks that have been checked.
func newProxies(texts []string) proxies {
	var all proxies
	for _, t := range texts {
		if p, err := parseProxy(t); err == nil {
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

// trust reports whether a belongs to a proxy that is believed.
func (ps proxies) trust(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	for _, p := range ps {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// client is who a request is charged to. The peer, unless that is a trusted
// proxy: then the last address in X-Forwarded-For that is not one, which is
// the one that a trusted proxy saw for itself. Whatever stands before it may
// be made up, and is not looked at.
func (ps proxies) client(req *http.Request) netip.Addr {
	ap, err := netip.ParseAddrPort(req.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	at := ap.Addr().Unmap()
	lines := req.Header.Values("X-Forwarded-For")
	for i := len(lines) - 1; i >= 0; i-- {
		rest := lines[i]
		for more := true; more; {
			if !ps.trust(at) {
				return at
			}
			hop := rest
			if cut := strings.LastIndexByte(rest, ','); cut >= 0 {
				rest, hop = rest[:cut], rest[cut+1:]
			} else {
				more = false
			}
			if strings.Trim(hop, " \t") == "" {
				continue // an empty element of a list means nothing (RFC 9110, section 5.6.1)
			}
			a, ok := parseHop(hop)
			if !ok {
				return at // the proxy at this address knows no better
			}
			at = a
		}
	}
	return at
}

// parseHop reads one element of X-Forwarded-For: an address, perhaps with a
// port.
func parseHop(text string) (netip.Addr, bool) {
	text = strings.Trim(text, " \t")
	if a, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(text, "["), "]")); err == nil {
		return a.Unmap(), true
	}
	ap, err := netip.ParseAddrPort(text)
	return ap.Addr().Unmap(), err == nil
}
