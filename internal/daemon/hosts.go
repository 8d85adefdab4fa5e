package daemon

import (
	"net"
	"net/http"
	"strings"
)

// onlyFor answers 421, with nothing else, to requests for a host that is not
// served here: DNS that points here by mistake, or a page that tries to reach
// the relay under a name of its own.
func onlyFor(serves func(host string) bool, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !serves(hostName(r.Host)) {
			w.WriteHeader(http.StatusMisdirectedRequest)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// hostName is a Host header's name: without port, brackets and the root's
// dot, in small letters.
func hostName(host string) string {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	return strings.ToLower(strings.TrimSuffix(host, "."))
}
