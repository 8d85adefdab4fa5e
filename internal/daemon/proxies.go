package daemon

import (
	"net/http"
	"net/netip"
	"strings"
)

// proxies are the networks whose word counts on who is calling.
type proxies []netip.Prefix

// parseProxy reads a network, or one address.
func parseProxy(text string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(text); err == nil {
		a = a.Unmap().WithZone("")
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(text)
	return p.Masked(), err
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
	at := ap.Addr()
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
