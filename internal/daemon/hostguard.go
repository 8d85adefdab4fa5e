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

// hostGuard refuses requests to the private listener that a page of another site may
// have caused in an operator's browser. Such a page can use the address of the listener,
// or a name of its own site that DNS now resolves to that address. The first shows in
// Origin and Sec-Fetch-Site, the second in Host. No page can change these headers.
type hostGuard struct {
	own     []string        // names that are always accepted
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
		Help: "Requests refused at the private listener because a page of another site may have made them, by the header that shows it; or with reason method, because the page does not serve the method.",
	}, []string{"reason"})}
	for _, reason := range []string{refusedHost, refusedOrigin, refusedSite, refusedMethod} {
		g.refused.WithLabelValues(reason)
	}
	if name, err := os.Hostname(); err == nil {
		g.own = append(g.own, config.HostName(name))
	}
	_, isUnix := config.UnixPath(cfg.MetricsListen)
	if host := config.HostName(cfg.MetricsListen); host != "" && !isUnix {
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
				w.Header().Set("Allow", strings.Join(methodsOf(r.URL.Path), ", "))
			}
			answer(w, status, sentence)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// judge returns the reason for which r is refused, with the status and the sentence of
// the answer. The reason is empty if r is served.
func (g *hostGuard) judge(r *http.Request) (reason string, status int, sentence string) {
	if !g.serves(r.Host) {
		return refusedHost, http.StatusMisdirectedRequest, fmt.Sprintf("header host: %q is not a name of this listener; use its IP address, or name the host in --metrics-hosts", cut(r.Host))
	}
	for _, o := range r.Header.Values("Origin") {
		if !g.ownOrigin(o, r.Host) {
			return refusedOrigin, http.StatusForbidden, fmt.Sprintf("header origin: %q is not the origin of this listener; only its own pages and those of the hosts in --metrics-hosts may send requests", cut(o))
		}
	}
	for _, site := range r.Header.Values("Sec-Fetch-Site") {
		if site != "same-origin" && site != "none" && !isLink(r) {
			return refusedSite, http.StatusForbidden, fmt.Sprintf("header sec-fetch-site: %q is refused except for a link to a page outside /debug/pprof/; enter the address in the browser yourself", cut(site))
		}
	}
	if !methodServed(r) {
		return refusedMethod, http.StatusMethodNotAllowed, fmt.Sprintf("method: %q is not served here; use %s", cut(r.Method), strings.Join(methodsOf(r.URL.Path), " or "))
	}
	return "", 0, ""
}

// serves reports whether a Host header names this listener. It accepts every IP address,
// which DNS cannot redirect, and requests without the header, which no browser sends.
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

// ownOrigin reports whether an Origin header is that of the listener's own pages, which
// have the same host as the request, or that of a host in --metrics-hosts.
func (g *hostGuard) ownOrigin(origin, host string) bool {
	u, err := url.Parse(origin)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" {
		return false
	}
	return strings.EqualFold(u.Host, host) || g.listed(config.HostName(u.Host))
}

// isLink reports whether r is the request of a browser after its user follows a link, in
// an alert or on a dashboard. The browser shows the page, and no script of the other
// site can read it. Profiles are excluded, because they cost the process too much.
func isLink(r *http.Request) bool {
	return (r.Method == http.MethodGet || r.Method == http.MethodHead) &&
		r.Header.Get("Sec-Fetch-Mode") == "navigate" && r.Header.Get("Sec-Fetch-Dest") == "document" &&
		!strings.HasPrefix(r.URL.Path, "/debug/pprof")
}

// methodServed reports whether the page of r serves its method. The contract allows all
// methods at /healthz. go tool pprof posts to symbol. fingerprint takes a server-id,
// which must not be in a URL.
func methodServed(r *http.Request) bool {
	switch {
	case r.Method == http.MethodGet || r.Method == http.MethodHead:
		return true // the handler of a path that is only for POST says so
	case r.URL.Path == "/healthz" || r.RequestURI == "*":
		return true
	}
	return slices.Contains(methodsOf(r.URL.Path), r.Method)
}

// methodsOf returns the methods that the page of a path serves.
func methodsOf(path string) []string {
	switch path {
	case KickPath, UnbanPath, RemoveMemberPath, "/debug/fingerprint":
		return []string{http.MethodPost}
	case BansPath, "/debug/pprof/symbol":
		return []string{http.MethodGet, http.MethodHead, http.MethodPost}
	}
	return []string{http.MethodGet, http.MethodHead}
}

// cut returns at most 100 bytes of a client's text.
func cut(s string) string { return s[:min(len(s), 100)] }
