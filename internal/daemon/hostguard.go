package daemon

import (
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pyrycode/pyrycode-relay/internal/config"
)

// hostGuard refuses what a page of another site makes a browser ask of the private
// listener. Such a page reaches it although the page's author cannot: by its address,
// or by a name of the author's that DNS suddenly resolves to that address. The second
// shows in Host, the first in Origin and Sec-Fetch-Site, which no page can change.
type hostGuard struct {
	own     []string        // names that it always has
	allowed func() []string // the names of --metrics-hosts
	refused *prometheus.CounterVec
}

// Reasons for which a request is refused.
const (
	refusedHost   = "host"
	refusedOrigin = "origin"
	refusedSite   = "site"
	refusedMethod = "method"
)

func newHostGuard(cfg config.Config, allowed func() []string, reg prometheus.Registerer) (*hostGuard, error) {
	g := &hostGuard{own: []string{"localhost"}, allowed: allowed, refused: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "pyrycode_relay_private_requests_refused_total",
		Help: "Requests refused at the private listener because a page of another site may have made them, by what showed it; method is a method that the page does not have.",
	}, []string{"reason"})}
	for _, reason := range []string{refusedHost, refusedOrigin, refusedSite, refusedMethod} {
		g.refused.WithLabelValues(reason)
	}
	if name, err := os.Hostname(); err == nil {
		g.own = append(g.own, config.HostName(name))
	}
	if host := config.HostName(cfg.MetricsListen); host != "" {
		g.own = append(g.own, host)
	}
	return g, reg.Register(g.refused)
}

// handler returns next behind the guard.
func (g *hostGuard) handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cross-Origin-Resource-Policy", "same-origin")
		if reason, status, sentence := g.judge(r); reason != "" {
			g.refused.WithLabelValues(reason).Inc()
			if reason == refusedMethod {
				w.Header().Set("Allow", "GET, HEAD")
			}
			answer(w, status, sentence)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// judge returns why r is refused, with the status and the sentence for it; no reason
// if it is served.
func (g *hostGuard) judge(r *http.Request) (reason string, status int, sentence string) {
	if !g.serves(r.Host) {
		return refusedHost, http.StatusMisdirectedRequest, fmt.Sprintf("header host: %q is no name of this listener; use its IP address, or name the host in --metrics-hosts", cut(r.Host))
	}
	for _, o := range r.Header.Values("Origin") {
		if !g.ownOrigin(o, r.Host) {
			return refusedOrigin, http.StatusForbidden, fmt.Sprintf("header origin: %q is not the origin of this listener; only its own pages may ask it, and those of the hosts in --metrics-hosts", cut(o))
		}
	}
	for _, site := range r.Header.Values("Sec-Fetch-Site") {
		if site != "same-origin" && site != "none" && !isLink(r) {
			return refusedSite, http.StatusForbidden, fmt.Sprintf("header sec-fetch-site: %q is refused except for a link to a page outside /debug/pprof/; enter the address in the browser yourself", cut(site))
		}
	}
	if !methodServed(r) {
		return refusedMethod, http.StatusMethodNotAllowed, fmt.Sprintf("method: %q is not served here; use GET", cut(r.Method))
	}
	return "", 0, ""
}

// serves reports whether a Host header names this listener. DNS cannot make an IP
// address lead elsewhere, and a request without the header is not of a browser.
func (g *hostGuard) serves(host string) bool {
	name := config.HostName(host)
	if _, err := netip.ParseAddr(name); err == nil || host == "" {
		return true
	}
	return slices.Contains(g.own, name) || g.listed(name)
}

// listed reports whether a name is in --metrics-hosts.
func (g *hostGuard) listed(name string) bool {
	return slices.ContainsFunc(g.allowed(), func(a string) bool { return strings.EqualFold(a, name) })
}

// ownOrigin reports whether an Origin header is that of the listener's own pages,
// which were asked for as host, or of a host in --metrics-hosts.
func (g *hostGuard) ownOrigin(origin, host string) bool {
	u, err := url.Parse(origin)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" {
		return false
	}
	return strings.EqualFold(u.Host, host) || g.listed(config.HostName(u.Host))
}

// isLink reports whether r is what a browser sends when its user follows a link, in
// an alert or on a dashboard: it shows a page, and no script of the other site sees
// that. Profiles cost the process too much for that.
func isLink(r *http.Request) bool {
	return (r.Method == http.MethodGet || r.Method == http.MethodHead) &&
		r.Header.Get("Sec-Fetch-Mode") == "navigate" && r.Header.Get("Sec-Fetch-Dest") == "document" &&
		!strings.HasPrefix(r.URL.Path, "/debug/pprof")
}

// methodServed reports whether a page is served for r's method. The contract allows
// all at /healthz; go tool pprof posts to symbol, and fingerprint takes an id that
// must be in no URL.
func methodServed(r *http.Request) bool {
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		return true
	case http.MethodPost:
		return slices.Contains([]string{"/healthz", "/debug/pprof/symbol", "/debug/fingerprint"}, r.URL.Path)
	}
	return r.URL.Path == "/healthz" || r.RequestURI == "*"
}

// cut returns a text of a client's for a sentence.
func cut(s string) string { return s[:min(len(s), 100)] }
