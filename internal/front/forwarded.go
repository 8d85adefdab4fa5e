package front

import (
	"net/http"
	"net/netip"
	"strings"

	"github.com/pyrycode/pyrycode-relay/internal/config"
)

// clientAddr returns the address that a request is charged to: the peer, unless that is
// a trusted proxy: then the last address in X-Forwarded-For that is not one, which is
// the one that a trusted proxy saw for itself. Whatever stands before it may
// be made up, and is not looked at.
func clientAddr(trusted config.Networks, req *http.Request) netip.Addr {
	ap, err := netip.ParseAddrPort(req.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	at := ap.Addr().Unmap()
	lines := req.Header.Values("X-Forwarded-For")
	for i := len(lines) - 1; i >= 0; i-- {
		rest := lines[i]
		for more := true; more; {
			if !trusted.Contain(at) {
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
