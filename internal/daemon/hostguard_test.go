package daemon

import (
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pyrycode/pyrycode-relay/internal/config"
)

// The private listener serves operators, whatever asks for them, and no page of
// another site.
func TestPagesOfOtherSitesAreRefused(t *testing.T) {
	hostname, _ := os.Hostname()
	c := config.Default()
	c.MetricsListen, c.MetricsHosts = "ops.example:9090", []string{"prometheus.internal"}
	reg := prometheus.NewRegistry()
	g, err := newHostGuard(c, func() []string { return c.MetricsHosts }, reg)
	if err != nil {
		t.Fatal(err)
	}
	h := g.handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { answer(w, 200, "served") }))
	link := "Sec-Fetch-Site: cross-site, Sec-Fetch-Mode: navigate, Sec-Fetch-Dest: document"
	refused := make(map[string]int)
	for _, tt := range []struct {
		method, host, path, headers string
		status                      int
		reason                      string
	}{
		{"GET", "127.0.0.1:9090", "/", "", 200, ""},
		{"GET", "[::1]:9090", "/metrics", "", 200, ""},
		{"GET", "[fe80::1]", "/metrics", "", 200, ""},
		{"GET", "10.1.2.3:9090", "/metrics", "", 200, ""},
		{"GET", "localhost:9090", "/", "", 200, ""},
		{"GET", "LOCALHOST.:9090", "/", "", 200, ""},
		{"GET", hostname + ":9090", "/", "", 200, ""},
		{"GET", "ops.example:9090", "/", "", 200, ""},
		{"GET", "Prometheus.Internal:9090", "/metrics", "", 200, ""},
		{"GET", "", "/metrics", "", 200, ""},
		{"GET", "evil.example", "/", "", 421, "host"},
		{"GET", "evil.example:9090", "/debug/log", "", 421, "host"},
		{"POST", "evil.example:9090", "/debug/pprof/heap?gc=1", "", 421, "host"},
		{"GET", "127.0.0.1.evil.example", "/", "", 421, "host"},
		{"GET", "localhost.evil.example", "/", "", 421, "host"},
		{"GET", "evil.localhost", "/", "", 421, "host"},
		{"GET", "0x7f.1", "/", "", 421, "host"},
		{"GET", "sub.prometheus.internal", "/", "", 421, "host"},
		{"GET", "localhost", "/", "Origin: http://localhost", 200, ""},
		{"GET", "localhost:9090", "/", "Origin: http://LOCALHOST:9090", 200, ""},
		{"GET", "127.0.0.1:9090", "/", "Origin: https://prometheus.internal", 200, ""},
		{"GET", "localhost:9090", "/", "Origin: http://localhost:3000", 403, "origin"},
		{"GET", "127.0.0.1:9090", "/", "Origin: http://evil.example", 403, "origin"},
		{"POST", "127.0.0.1:9090", "/debug/pprof/symbol", "Origin: null", 403, "origin"},
		{"POST", "127.0.0.1:9090", "/debug/fingerprint", "Origin: http://evil.example:9090", 403, "origin"},
		{"GET", "127.0.0.1:9090", "/", "Origin: ", 403, "origin"},
		{"GET", "127.0.0.1:9090", "/", "Origin: file://127.0.0.1:9090", 403, "origin"},
		{"GET", "127.0.0.1:9090", "/", "Sec-Fetch-Site: none", 200, ""},
		{"GET", "127.0.0.1:9090", "/status.json", "Sec-Fetch-Site: same-origin", 200, ""},
		{"GET", "127.0.0.1:9090", "/", "Sec-Fetch-Site: same-site", 403, "site"},
		{"GET", "127.0.0.1:9090", "/", "Sec-Fetch-Site: cross-site, Sec-Fetch-Mode: no-cors, Sec-Fetch-Dest: image", 403, "site"},
		{"GET", "127.0.0.1:9090", "/", "Sec-Fetch-Site: cross-site, Sec-Fetch-Mode: navigate, Sec-Fetch-Dest: iframe", 403, "site"},
		{"GET", "127.0.0.1:9090", "/", link, 200, ""}, // an alert's link
		{"GET", "127.0.0.1:9090", "/debug/pprof/heap?gc=1", link, 403, "site"},
		{"POST", "127.0.0.1:9090", "/healthz", link, 403, "site"},
		{"POST", "127.0.0.1:9090", "/debug/pprof/heap?gc=1", "", 405, "method"},
		{"DELETE", "127.0.0.1:9090", "/metrics", "", 405, "method"},
		{"POST", "127.0.0.1:9090", "/debug/pprof/symbol", "", 200, ""},
		{"DELETE", "127.0.0.1:9090", "/healthz", "", 200, ""},
		{"POST", "127.0.0.1:9090", "/connections/kick", "", 200, ""},
		{"POST", "localhost", "/bans", "", 200, ""},
		{"POST", "evil.example:9090", "/connections/kick", "", 421, "host"},
		{"POST", "127.0.0.1:9090", "/connections/kick", "Origin: http://evil.example", 403, "origin"},
		{"POST", "127.0.0.1:9090", "/bans", "Origin: null", 403, "origin"},
		{"POST", "127.0.0.1:9090", "/bans/lift", "Sec-Fetch-Site: cross-site", 403, "site"},
		{"POST", "127.0.0.1:9090", "/bans", link, 403, "site"},
		{"OPTIONS", "127.0.0.1:9090", "/bans", "", 405, "method"},
		{"DELETE", "127.0.0.1:9090", "/bans", "", 405, "method"},
		{"POST", "127.0.0.1:9090", "/connections", "", 405, "method"},
	} {
		r := httptest.NewRequest(tt.method, tt.path, nil)
		r.Host = tt.host
		for one := range strings.SplitSeq(tt.headers, ", ") {
			if name, value, ok := strings.Cut(one, ": "); ok {
				r.Header.Set(name, value)
			}
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != tt.status {
			t.Errorf("%s %s of %q with %q: %d, %s; want %d", tt.method, tt.path, tt.host, tt.headers, w.Code, w.Body, tt.status)
		}
		if w.Code != 200 {
			refused[tt.reason]++
			if said := w.Body.String(); !strings.Contains(said, `"`) || !strings.Contains(said, ";") {
				t.Errorf("%s %s of %q is told %q; want the value, the rule and what to do", tt.method, tt.path, tt.host, said)
			}
		}
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range families[0].GetMetric() {
		if reason := m.GetLabel()[0].GetValue(); int(m.GetCounter().GetValue()) != refused[reason] {
			t.Errorf("%v refusals are counted for %s; want %d", m.GetCounter().GetValue(), reason, refused[reason])
		}
	}
}

// A refusal of a method names the methods that the page serves.
func TestTheRefusalOfAMethodNamesTheOthers(t *testing.T) {
	for path, want := range map[string]string{"/metrics": "GET or HEAD", KickPath: "POST", BansPath: "GET or HEAD or POST"} {
		g, err := newHostGuard(config.Default(), func() []string { return nil }, prometheus.NewRegistry())
		if err != nil {
			t.Fatal(err)
		}
		r := httptest.NewRequest(http.MethodPut, path, nil)
		r.Host = "127.0.0.1:9090"
		if _, status, sentence := g.judge(r); status != http.StatusMethodNotAllowed || !strings.HasSuffix(sentence, "use "+want) {
			t.Errorf("PUT %s: %d, %q; want 405, and the methods %s", path, status, sentence, want)
		}
	}
}
